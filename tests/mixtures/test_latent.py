"""Latent attention: what its cache takes, what it is compared with, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from inflight.build.engine import build_engine, plan_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import check_config
from inflight.errors import BuildError, ModelError
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.executors.reference.executor import ReferenceExecutor
from inflight.runtime.loading.load import load_engine
from tests.models.families.mixtures import LATENT, MIXTURE_CONFIGS
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.pipeline.stepping import prompt_logits

pytestmark = pytest.mark.pipeline


def converted(directory: Path, shape: Shape, seed: int, **options: Any) -> Path:
    save_random_model(directory / "model", shape, seed)
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False, **options))
    return directory / "checkpoint"


@pytest.mark.parametrize("family", LATENT)
def test_a_token_takes_one_row_of_the_cache(tmp_path: Path, family: str, seed: int, rng: np.random.Generator) -> None:
    shape = random_shape(rng, family)
    checkpoint = converted(tmp_path, shape, seed)
    width = shape.extra["kv_lora_rank"] + shape.extra["qk_rope_head_dim"]
    # int8: whole groups of four and the row's scale; bfloat16 and fp8: whole pairs.
    stored = {
        "auto": 4 * width,
        "bfloat16": -(-width // 2) * 4,
        "int8": -(-width // 4) * 4 + 4,
        "fp8": -(-width // 2) * 2,
    }
    for kv_cache_dtype, row in stored.items():
        plan = plan_engine(checkpoint, make_recipe("cpu", kv_cache_dtype=kv_cache_dtype, tokens_per_block=48))
        assert plan.target.kv_cache.bytes_per_block == 48 * shape.num_layers * row
        assert plan.work.kv_bytes_per_token == shape.num_layers * row
    reference = plan_engine(checkpoint, make_recipe("reference"))
    assert reference.work.kv_bytes_per_token == shape.num_layers * width * 4
    assert reference.model.latent_size == width


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8"])
def test_an_engine_with_a_rounded_cache_is_as_the_reference(
    tmp_path: Path, kv_cache_dtype: str, seed: int, rng: np.random.Generator
) -> None:
    """Of the usual token: where numbers are rounded, a router may send one to another expert. One of 8-bit floats also
    rounds queries and weights to bfloat16."""
    shape = random_shape(rng, str(rng.choice(LATENT)))
    checkpoint = converted(tmp_path, shape, seed)
    prompt = tuple(rng.integers(shape.vocab_size, size=70).tolist())
    found = [
        logits_of(checkpoint, tmp_path / target, prompt, target=target, kv_cache_dtype=kv_cache_dtype)
        for target in ("cpu", "reference")
    ]
    assert usual_error(*found) < (2e-3 if kv_cache_dtype == "int8" else 5e-2)


def test_an_engine_of_quantized_products_is_as_the_reference(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    """The matrices of the heads are plain whatever the others are."""
    shape = random_shape(rng, str(rng.choice(LATENT)))
    extra = {**shape.extra, "moe_intermediate_size": 2 * int(rng.integers(5, 40))}
    scheme = str(rng.choice(["int8_w8a8", "int8_wo", "int4_wo"]))
    checkpoint = converted(
        tmp_path, replace(shape, hidden_size=2 * shape.hidden_size, extra=extra), seed, quantize=scheme
    )
    prompt = tuple(rng.integers(shape.vocab_size, size=70).tolist())
    found = [logits_of(checkpoint, tmp_path / target, prompt, target=target) for target in ("cpu", "reference")]
    # Rows of 8 bits differ by single levels wherever the last bits of a float32 do, and all later tokens read them.
    assert usual_error(*found) < (5e-2 if scheme == "int8_w8a8" else 2e-3)


def test_matrices_stored_in_blocks_of_8_bit_floats_are_those_that_they_mean(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    """As DeepSeek-V3 is published, the matrices of the heads with the others; blocks at the edges are smaller."""
    model = save_random_model(tmp_path / "model", random_shape(rng, "deepseek_v3"), seed)
    stored, meant = {}, {}
    for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items():
        if not name.endswith("_proj.weight") and "kv_a_proj_with_mqa.weight" not in name:
            stored[name] = meant[name] = tensor
            continue
        rows, width = tensor.shape
        padded = torch.zeros(-(-rows // 32) * 32, -(-width // 32) * 32)
        padded[:rows, :width] = tensor
        blocks = padded.reshape(padded.shape[0] // 32, 32, -1, 32)
        scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
        levels = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        stored[name] = levels.reshape(padded.shape)[:rows, :width].contiguous()
        stored[f"{name}_scale_inv"] = scale
        meant[name] = (levels.float() * scale[:, None, :, None]).reshape(padded.shape)[:rows, :width].contiguous()
    config = {**model.config.to_dict(), "architectures": model.config.architectures, "dtype": "float32"}
    blocks_of = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    for folder, tensors, further in (("stored", stored, {"quantization_config": blocks_of}), ("meant", meant, {})):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text(json.dumps({**config, **further}))
        options = ConvertOptions(progress=False, dequantize=folder == "stored")
        convert_model(tmp_path / folder, tmp_path / f"{folder}-checkpoint", options)
    one, other = (Checkpoint.open(tmp_path / f"{folder}-checkpoint") for folder in ("stored", "meant"))
    assert one.tensors.keys() == other.tensors.keys()
    for name in one.tensors:
        np.testing.assert_allclose(one.array(name), other.array(name), rtol=1e-6, err_msg=name)
    convert_model(tmp_path / "stored", tmp_path / "kept-checkpoint", ConvertOptions(progress=False))
    kept = Checkpoint.open(tmp_path / "kept-checkpoint")
    modules = [name.removesuffix(".weight") for name in kept.tensors if kept.scales_of(name) is not None]
    # The matrices of the heads are dequantized.
    names = {name.split(".", 3)[-1] for name in modules}
    assert names >= {"attention.kv_a", "attention.dense", "mlp.fc", "mlp.proj"}
    assert not any(name.endswith(("k_b", "v_b")) for name in modules)
    for module in modules:
        stacked = len(kept.tensors[f"{module}.weight"].shape) == 3
        numbers = (
            np.stack([kept.stack(module)[e] for e in range(len(other.array(f"{module}.weight")))])
            if stacked
            else kept.matrix(module)
        )
        np.testing.assert_allclose(numbers, other.array(f"{module}.weight"), rtol=1e-6, err_msg=module)


def logits_of(checkpoint: Path, engine: Path, prompt: tuple[int, ...], **recipe: Any) -> npt.NDArray[np.float64]:
    build_engine(checkpoint, engine, make_recipe(max_seq_len=128, max_batch_size=2, **recipe))
    executor = load_engine(engine)
    assert isinstance(executor, CpuExecutor | ReferenceExecutor)
    try:
        return np.asarray(prompt_logits(executor, prompt))
    finally:
        executor.close()


def usual_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.median(np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)))


def test_what_is_not_lowered_is_refused_by_name(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    checkpoint = converted(tmp_path, random_shape(rng, str(rng.choice(LATENT))), seed)
    with pytest.raises(BuildError, match="tensorrt target has no lowering for latent attention"):
        plan_engine(checkpoint, make_recipe("tensorrt"))
    with pytest.raises(BuildError, match="no cache of int4"):
        plan_engine(checkpoint, make_recipe("cpu", kv_cache_dtype="int4"))
    with pytest.raises(BuildError, match="--tokens-per-block 65536: too many for latent attention"):
        plan_engine(checkpoint, make_recipe("cpu", tokens_per_block=65536))
    with pytest.raises(ModelError, match="tp_size 2: latent attention, whose heads share"):
        convert_model(tmp_path / "model", tmp_path / "split", ConvertOptions(tp_size=2, progress=False))


@pytest.mark.parametrize(
    ("family", "value", "message"),
    [
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method 'noaux_tc' is not supported"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob True is not supported"),
        ("deepseek_v2", {"mlp_bias": True}, "mlp_bias True is not supported"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method 'greedy' is not supported"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func 'softmax' is not supported: it is sigmoid"),
        ("deepseek_v3", {"rope_interleave": False}, "rope_interleave false is not supported"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq 2 is not supported"),
        ("deepseek_v3", {"qk_rope_head_dim": 7}, "qk_rope_head_dim 7 is odd"),
        ("deepseek_v3", {"kv_lora_rank": None}, "config.json has no kv_lora_rank"),
    ],
)
def test_what_is_not_known_of_a_config_is_refused_by_name(family: str, value: dict[str, Any], message: str) -> None:
    made = MIXTURE_CONFIGS[family](vocab_size=100, num_experts_per_tok=2)
    config = {**made.to_dict(), "architectures": [f"Deepseek{family[-2:].upper()}ForCausalLM"], **value}
    with pytest.raises(ModelError, match=message):
        check_config("model", config)

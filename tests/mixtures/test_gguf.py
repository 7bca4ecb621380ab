"""GGUF files with experts: what llama.cpp's converter did to a mixture is undone, and its blocks keep their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import ModelError
from tests.models.families.gguf_mixtures import MIXTURES, Floats, random_mixture_shape, write_mixture
from tests.models.random_models import save_random_model

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
pytestmark = pytest.mark.pipeline

# What the gguf package itself can quantize to, in blocks of 32.
KINDS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")


@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_comes_back_from_gguf_as_it_was(
    tmp_path: Path, family: str, seed: int, rng: np.random.Generator
) -> None:
    model = save_random_model(tmp_path / "model", random_mixture_shape(rng, family), seed)
    write_mixture(tmp_path / "model.gguf", model)
    for source, target in (("model", "plain"), ("model.gguf", "from_gguf")):
        convert_model(tmp_path / source, tmp_path / target)
    one, other = (Checkpoint.open(tmp_path / name) for name in ("plain", "from_gguf"))
    assert one.spec == other.spec
    left_out = {"inflight": None, "max_position_embeddings": 0, "intermediate_size": 0}
    assert one.config.model_copy(update=left_out) == other.config.model_copy(update=left_out)
    assert set(one.tensors) == set(other.tensors)
    for name in one.tensors:
        np.testing.assert_array_equal(one.array(name), other.array(name), err_msg=name)


def numbers_of(tensors: dict[str, Floats], name: str, kind: str) -> Floats:
    code = gguf.GGMLQuantizationType[kind]
    found: Floats = gguf.dequantize(gguf.quantize(tensors[name], code), code)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_experts_keep_their_numbers(tmp_path: Path, kind: str, seed: int, rng: np.random.Generator) -> None:
    """As in a file of llama-quantize: every matrix of the layers in blocks, routers in float32."""
    family = str(rng.choice(["mixtral", "qwen3_moe", "olmoe", "granitemoe"]))
    shape = random_mixture_shape(rng, family, num_kv_heads=2, queries_per_kv=1, head_size=32, hidden_size=64)
    size = 32 * int(rng.integers(1, 4))
    shape.extra.update({"moe_intermediate_size": size} if family == "qwen3_moe" else {"intermediate_size": size})
    code = gguf.GGMLQuantizationType[kind]

    def pack(name: str, tensor: Floats) -> tuple[Any, Any]:
        quantized = tensor.ndim > 1 and "ffn_gate_inp" not in name and name.startswith("blk")
        return (gguf.quantize(tensor, code), code) if quantized else (tensor, None)

    tensors = write_mixture(tmp_path / "model.gguf", save_random_model(tmp_path / "model", shape, seed), pack)
    notes = convert_model(tmp_path / "model.gguf", tmp_path / "kept", ConvertOptions(dtype="float32"))
    assert any("keep their numbers" in note for note in notes)
    checkpoint = Checkpoint.open(tmp_path / "kept")
    for layer in range(2):
        prefix = f"transformer.layers.{layer}.mlp."
        fc, proj = (checkpoint.stack(f"{prefix}{name}") for name in ("fc", "proj"))
        quantization = checkpoint.quantization_of(f"{prefix}fc")
        assert quantization is not None and quantization.bits == (4 if kind in ("Q4_0", "Q4_1", "MXFP4") else 8)
        np.testing.assert_array_equal(
            checkpoint.array(f"{prefix}router.weight"), tensors[f"blk.{layer}.ffn_gate_inp.weight"]
        )
        up, gate, down = (
            numbers_of(tensors, f"blk.{layer}.ffn_{part}_exps.weight", kind) for part in ("up", "gate", "down")
        )
        # An offset that takes eight scales in is rounded to float32 once more than the package rounds it.
        near = 1e-6 if kind == "Q4_1" else 0
        for expert in range(len(up)):
            theirs = np.concatenate([up[expert], gate[expert]])
            np.testing.assert_allclose(fc[expert].astype(np.float32), theirs, rtol=0, atol=near)
            np.testing.assert_allclose(proj[expert].astype(np.float32), down[expert], rtol=0, atol=near)


@pytest.mark.parametrize(("family", "kind"), [("gpt_oss", "MXFP4"), ("qwen2_moe", "Q8_0"), ("deepseek_v2", "Q4_0")])
def test_a_file_with_experts_verifies(
    tmp_path: Path, family: str, kind: str, seed: int, rng: np.random.Generator
) -> None:
    """Held to transformers on the dequantized numbers; in float32 no router hesitates."""
    shape = random_mixture_shape(rng, family, hidden_size=96, num_kv_heads=4, queries_per_kv=1, head_size=24)
    sizes = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 32} if family != "gpt_oss" else {}
    shape.extra.update({**sizes, "intermediate_size": 64})
    code = gguf.GGMLQuantizationType[kind]

    def pack(name: str, tensor: Floats) -> tuple[Any, Any]:
        return (gguf.quantize(tensor, code), code) if name.endswith("_exps.weight") else (tensor, None)

    write_mixture(tmp_path / "model.gguf", save_random_model(tmp_path / "model", shape, seed), pack)
    convert_model(tmp_path / "model.gguf", tmp_path / "checkpoint", ConvertOptions(dtype="float32"))
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe("cpu", max_batch_size=2, max_seq_len=64))
    words = ["verify", str(tmp_path / "model.gguf"), str(tmp_path / "engine"), "--max-tokens", "4", "--json"]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    assert result.exit_code == 0, json.loads(result.stdout)


def test_gates_in_one_stack_are_cut_and_sizes_that_old_files_lack_are_those_of_matrices(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    model = save_random_model(tmp_path / "model", random_mixture_shape(rng, "qwen2_moe"), seed)
    write_mixture(tmp_path / "whole.gguf", model)
    old = tuple(f"qwen2moe.expert_{which}feed_forward_length" for which in ("", "shared_"))
    write_mixture(tmp_path / "fused.gguf", model, fused=True, leave_out=old)
    for name in ("whole", "fused"):
        convert_model(tmp_path / f"{name}.gguf", tmp_path / name)
    one, other = ((tmp_path / name / "rank0.safetensors").read_bytes() for name in ("whole", "fused"))
    assert one == other


def test_what_a_file_of_a_mixture_lacks_is_named(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    model = save_random_model(tmp_path / "model", random_mixture_shape(rng, "olmoe"), seed)
    write_mixture(tmp_path / "model.gguf", model, leave_out=("olmoe.expert_count",))
    with pytest.raises(ModelError, match="has no num_experts"):
        convert_model(tmp_path / "model.gguf", tmp_path / "out")
    write_mixture(
        tmp_path / "model.gguf", model, lambda name, tensor: (tensor[1:] if "down_exps" in name else tensor, None)
    )
    with pytest.raises(ModelError, match=r"missing tensor: model\.layers\.0\.mlp\.experts\.\d+\.down_proj"):
        convert_model(tmp_path / "model.gguf", tmp_path / "out")

"""gpt-oss whose experts are stored as MXFP4, with transformers' own reading of the blocks as the judge."""

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
from transformers import GptOssConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import check_config
from inflight.errors import ModelError
from tests.models.random_models import Shape, random_shape, save_random_model

pytestmark = pytest.mark.pipeline

_STACKS = ("gate_up_proj", "down_proj")
Floats = npt.NDArray[np.float32]


def random_source(directory: Path, rng: np.random.Generator, seed: int) -> tuple[Shape, dict[str, Floats]]:
    """A model with random blocks and exponents in place of its experts; their numbers as transformers reads them, by
    name, [experts, in, out].
    """
    shape = replace(random_shape(rng, "gpt_oss"), num_kv_heads=2, queries_per_kv=2, head_size=24, hidden_size=96)
    shape = replace(shape, intermediate_size=int(rng.choice([32, 64, 160])))
    return shape, save_blocks(directory, shape, rng, seed)


def save_blocks(directory: Path, shape: Shape, rng: np.random.Generator, seed: int) -> dict[str, Floats]:
    """The numbers of random_source."""
    save_random_model(directory, shape, seed, torch.bfloat16)
    tensors, numbers = load_file(directory / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith(_STACKS)]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = torch.from_numpy(rng.integers(0, 256, (experts, outputs, inputs // 32, 16), np.uint8))
        scales = torch.from_numpy(rng.integers(122, 125, (experts, outputs, inputs // 32), np.uint8))
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        numbers[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (directory / "config.json").write_text(json.dumps(config))
    return numbers


def test_blocks_keep_their_codes(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    _, numbers = random_source(tmp_path / "model", rng, seed)
    notes = convert_model(tmp_path / "model", tmp_path / "kept")
    assert any("keep their numbers" in note and "e2m1" in note for note in notes)
    convert_model(tmp_path / "model", tmp_path / "plain", ConvertOptions(dequantize=True, dtype="float32"))
    for kind in ("kept", "plain"):
        checkpoint = Checkpoint.open(tmp_path / kind)
        assert (checkpoint.quantization_of("transformer.layers.0.mlp.fc") is not None) == (kind == "kept")
        for layer in range(2):
            theirs = [numbers[f"model.layers.{layer}.mlp.experts.{name}"] for name in _STACKS]
            fc, proj = (checkpoint.stack(f"transformer.layers.{layer}.mlp.{name}") for name in ("fc", "proj"))
            for expert, (gate_up, down) in enumerate(zip(*theirs, strict=True)):
                up_first = np.concatenate([gate_up[:, 1::2], gate_up[:, ::2]], axis=1).T
                np.testing.assert_array_equal(fc[expert].astype(np.float32), up_first)
                np.testing.assert_array_equal(proj[expert].astype(np.float32), down.T)


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_an_engine_of_codes_computes_what_they_mean(
    tmp_path: Path, target: str, rng: np.random.Generator, seed: int
) -> None:
    random_source(tmp_path / "model", rng, seed)
    # In float32 no router hesitates, and every logit counts.
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype="float32"))
    recipe = make_recipe(target, max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", recipe)
    words = ["verify", str(tmp_path / "model"), str(tmp_path / "engine"), "--max-tokens", "8", "--json"]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    assert result.exit_code == 0, json.loads(result.stdout)


def test_other_limits_of_the_activation_are_refused() -> None:
    config: dict[str, Any] = GptOssConfig(vocab_size=100).to_dict() | {"architectures": ["GptOssForCausalLM"]}
    check_config("model", config)
    with pytest.raises(ModelError, match=r"swiglu_limit 5\.0 is not supported.*\n.*swiglu_alpha 2 is not"):
        check_config("model", {**config, "swiglu_limit": 5.0, "swiglu_alpha": 2})

"""Checkpoints that ask for a quantized KV cache: the flags of convert, and sources that have scales of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from inflight.build.engine import plan_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.cache_factors import cache_factors
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model

pytestmark = pytest.mark.unit

LAYERS = 3
# What config.json or hf_quant_config.json says, and where the scales of keys and values lie then.
SOURCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "ModelOpt": ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "k_proj.k_scale", "v_proj.v_scale"),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float", "symmetric": True}},
        "k_scale",
        "v_scale",
    ),
}


def convert(*arguments: object) -> Result:
    words = ["convert", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(build_app(["convert"]), words)


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    config = tiny_config(num_hidden_layers=LAYERS)
    return write_model(tmp_path / "model", config, random_tensors(config, rng))


def scaled_model(directory: Path, source: str, scales: np.ndarray[Any, Any], rng: np.random.Generator) -> Path:
    """Plain weights and `scales` [layers, 2] of a cache."""
    said, *names = SOURCES[source]
    config = tiny_config(num_hidden_layers=LAYERS, quantization_config=said)
    tensors = random_tensors(config, rng)
    for layer, pair in enumerate(scales):
        for name, scale in zip(names, pair, strict=True):
            tensors[f"model.layers.{layer}.self_attn.{name}"] = np.asarray(scale, np.float32)
    return write_model(directory, config, tensors)


@pytest.mark.parametrize("flags", [("--kv-cache-dtype", "fp8"), ("--kv_cache_dtype=fp8",), ("--fp8_kv_cache",)])
def test_a_checkpoint_asks_for_fp8_with_factors_of_one_on_every_rank(
    flags: tuple[str, ...], tmp_path: Path, model: Path
) -> None:
    assert convert(model, "-o", tmp_path / "out", "--tp-size", 2, "--pp-size", 2, *flags).exit_code == 0
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert checkpoint.config.quantization.kv_cache_quant_algo == "FP8"
    for rank, table in enumerate(checkpoint.ranks):
        factors = {name for name in table if name.endswith("_cache_scaling_factor")}
        layers = 2 if rank < 2 else 1  # of 3, over two stages
        assert factors == {f"transformer.layers.{i}.attention.kv_cache_scaling_factor" for i in range(layers)}
        assert all(checkpoint.array(name, rank).tolist() == [1.0] for name in factors)


def test_int8_is_asked_for_without_factors(tmp_path: Path, model: Path) -> None:
    assert convert(model, "-o", tmp_path / "out", "--int8-kv-cache").exit_code == 0
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert checkpoint.config.quantization.kv_cache_quant_algo == "INT8"
    assert not [name for name in checkpoint.tensors if "scaling" in name]
    assert cache_factors(checkpoint) == ()


def test_two_types_are_refused(tmp_path: Path, model: Path) -> None:
    result = convert(model, "-o", tmp_path / "out", "--int8-kv-cache", "--kv-cache-dtype", "fp8")
    assert result.exit_code == 2 and "not both" in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("source", SOURCES)
def test_the_scales_of_a_source_are_the_factors_of_the_engine(
    source: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    scales = rng.uniform(0.001, 3, (LAYERS, 2)).astype(np.float32)
    scales[1, 1] = scales[1, 0]
    convert_model(scaled_model(tmp_path / "model", source, scales, rng), tmp_path / "out", ConvertOptions())
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert cache_factors(checkpoint) == tuple(map(tuple, scales.tolist()))
    both = [checkpoint.array(f"transformer.layers.{i}.attention.kv_cache_scaling_factor")[0] for i in range(LAYERS)]
    assert both == scales.max(axis=1).tolist()
    assert plan_engine(tmp_path / "out", make_recipe()).target.kv_cache.dtype == "float8_e4m3fn"
    plain = plan_engine(tmp_path / "out", make_recipe(kv_cache_dtype="float32"))
    assert plain.target.kv_cache.dtype == "float32"
    assert plain.model.num_parameters == sum(
        int(np.prod(entry.shape)) for name, entry in checkpoint.tensors.items() if "scaling" not in name
    )


def test_a_source_that_asks_for_no_cache_has_its_scales_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    model = scaled_model(tmp_path / "model", "ModelOpt", np.ones((LAYERS, 2), np.float32), rng)
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}
    (model / "config.json").write_text(json.dumps(config))
    convert_model(model, tmp_path / "out", ConvertOptions())
    assert Checkpoint.open(tmp_path / "out").config.quantization.kv_cache_quant_algo is None


@pytest.mark.parametrize("bad", [0.0, float("nan"), -2.0])
def test_a_scale_that_is_no_number_above_zero_is_named(bad: float, tmp_path: Path, rng: np.random.Generator) -> None:
    scales = np.ones((LAYERS, 2), np.float32)
    scales[2, 0] = bad
    model = scaled_model(tmp_path / "model", "ModelOpt", scales, rng)
    with pytest.raises(ModelError, match=r"model\.layers\.2\.self_attn\.k_proj\.k_scale must be one number above zero"):
        convert_model(model, tmp_path / "out", ConvertOptions())
    assert not (tmp_path / "out").exists()

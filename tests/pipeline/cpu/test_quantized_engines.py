"""Quantized models from end to end: convert, build for the cpu, and transformers on the same integers as the judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from inflight.build.engine import build_engine, plan_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from inflight.errors import InflightError
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.models.schemes import calibrated_on, quantizing
from tests.network.support import ALL_FAMILIES, chosen, some_of

pytestmark = pytest.mark.pipeline

SCHEMES = list(RECIPES)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in ALL_FAMILIES},
    "llama with biases": ("llama", {"extra": {"mlp_bias": True}}),
}


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)


def build(directory: Path, options: dict[str, Any], **recipe: Any) -> Path:
    options = options | calibrated_on(directory / "model", options.get("quantize"))
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False, **options))
    limits: dict[str, Any] = {"max_batch_size": 2, "max_seq_len": 64, "max_num_tokens": 8}
    build_engine(directory / "checkpoint", directory / "engine", make_recipe(**limits, **recipe))
    return directory / "engine"


@pytest.mark.parametrize("case", some_of(2, enumerate(MODELS)))
def test_an_engine_of_any_scheme_computes_what_its_integers_mean(
    tmp_path: Path, case: Any, seed: int, rng: np.random.Generator
) -> None:
    """Each run draws families and schemes anew (with --slow all of them), and groups, types and odd sizes."""
    index, model = chosen(case, rng)
    family, changes = MODELS[model]
    schemes = np.random.default_rng(seed).permutation(SCHEMES)
    options = quantizing(str(schemes[index % len(schemes)]), int(rng.choice([32, 64, 128])))
    dtype = torch.float32 if rng.random() < 0.5 else torch.bfloat16
    save_random_model(tmp_path / "model", replace(random_shape(rng, family), **changes), seed, dtype)
    cache = str(rng.choice(["auto", "int8"]))
    engine = build(tmp_path, options, kv_cache_dtype=cache)
    result = run(
        "verify", tmp_path / "model", engine, "--checkpoint-dir", tmp_path / "checkpoint", "--max-tokens", 6, "--json"
    )
    report = json.loads(result.stdout)
    assert result.exit_code == 0, (options, dtype, cache, report)


def test_the_weights_begin_with_a_table_of_which_steps_read_single_rows(tmp_path: Path, seed: int) -> None:
    """A tied plain model looks its rows up in the projection; a quantized one cannot."""
    save_random_model(tmp_path / "model", Shape(tied=True, vocab_size=256, hidden_size=72), seed, torch.bfloat16)
    schemes: list[tuple[str | None, int]] = [(None, 0), ("int4_w4a8", 256 * 72 * 2)]
    for scheme, expected in schemes:
        options = ConvertOptions(overwrite=True, progress=False, quantize=scheme)
        convert_model(tmp_path / "model", tmp_path / "ckpt", options)
        plan = plan_engine(tmp_path / "ckpt", make_recipe(max_batch_size=2, max_seq_len=64))
        assert plan.target.memory.lookup_bytes == expected


def test_verify_tells_a_quantized_engine_of_another_model_from_a_rounded_one(tmp_path: Path, seed: int) -> None:
    save_random_model(tmp_path / "model", Shape(), seed)
    save_random_model(tmp_path / "other", Shape(), seed + 1)
    engine = build(tmp_path, {"quantize": "int8_w8a8"})
    result = run("verify", tmp_path / "other", engine, "--max-tokens", 6)
    assert result.exit_code == 1
    assert "the compiled engine does not" in " ".join(result.stdout.split())


@pytest.mark.parametrize("source", ["a checkpoint of ours", "weights quantized by others"])
def test_what_is_quantized_already_is_not_quantized_again(tmp_path: Path, seed: int, source: str) -> None:
    save_random_model(tmp_path / "model", Shape(), seed)
    if source == "a checkpoint of ours":
        convert_model(tmp_path / "model", tmp_path / "input", ConvertOptions(quantize="int8_wo", progress=False))
    else:
        (tmp_path / "model").rename(tmp_path / "input")
        config = json.loads((tmp_path / "input" / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
        (tmp_path / "input" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InflightError, match=r"cannot be dequantized as gptq|is a checkpoint already"):
        convert_model(tmp_path / "input", tmp_path / "output", ConvertOptions(quantize="int4_wo", progress=False))
    assert not (tmp_path / "output").exists()

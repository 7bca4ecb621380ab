"""`inflight verify` and `inflight inspect` as a user runs them, on engines that are right and on one that is not."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.families import table as families
from inflight.convert.families.names import DECODER_NAMES
from inflight.errors import InflightError
from tests.engines.serving_engines import write_null_engine
from tests.models.float8 import round_to_float8
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.network.support import ALL_FAMILIES, FAMILIES, chosen, some_of

pytestmark = pytest.mark.pipeline


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)


def build(directory: Path, target: str, model: str = "model") -> Path:
    convert_model(directory / model, directory / "checkpoint")
    recipe = make_recipe(target=target, max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(directory / "checkpoint", directory / "engine", recipe)
    return directory / "engine"


@pytest.mark.parametrize(
    ("target", "dtype"), [("cpu", torch.float32), ("cpu", torch.bfloat16), ("reference", torch.float32)]
)
def test_a_right_engine_passes(
    tmp_path: Path, target: str, dtype: torch.dtype, seed: int, rng: np.random.Generator
) -> None:
    family = str(rng.choice(["llama", "mistral", "qwen2", "qwen3"]))
    save_random_model(tmp_path / "model", random_shape(rng, family), seed, dtype)
    result = run("verify", tmp_path / "model", build(tmp_path, target), "--max-tokens", 6, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0, report
    assert all(prompt["passed"] for prompt in report["prompts"])


NEW_MATHEMATICS = [family for family in ALL_FAMILIES if family not in FAMILIES]


@pytest.mark.parametrize(
    "case", [*product(NEW_MATHEMATICS, ["reference"]), *some_of(2, product(NEW_MATHEMATICS, ["cpu"]))]
)
def test_an_engine_passes_whatever_its_layers_are(
    tmp_path: Path, case: Any, seed: int, rng: np.random.Generator
) -> None:
    """Compiled engines of two families in each run."""
    family, target = chosen(case, rng)
    dtype = torch.bfloat16 if rng.random() < 0.5 else torch.float32
    save_random_model(tmp_path / "model", random_shape(rng, family), seed, dtype)
    result = run("verify", tmp_path / "model", build(tmp_path, target), "--max-tokens", 6, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0, report
    assert all(prompt["passed"] and prompt["new_tokens"] == 6 for prompt in report["prompts"])


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_a_wrong_engine_of_gemma_is_followed_layer_by_layer(
    tmp_path: Path, family: str, seed: int, rng: np.random.Generator
) -> None:
    shape = random_shape(rng, family)
    for name, number in (("model", seed), ("other", seed + 1)):
        save_random_model(tmp_path / name, shape, number)
    result = run("verify", tmp_path / "model", build(tmp_path, "reference", "other"), "--max-tokens", 2, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    *checkpoint, network, engine = (row["error"] for row in report["layers"])
    assert len(checkpoint) == shape.num_layers + 1 and max(*checkpoint, network) < 1e-3 < engine


def test_inspect_says_in_which_layers_a_model_differs(tmp_path: Path, seed: int) -> None:
    full = {"rope_type": "default", "rope_theta": 1e6}
    local = {"rope_type": "default", "rope_theta": 300.0}
    extra = {"rope_parameters": {"full_attention": full, "sliding_attention": local}}
    save_random_model(tmp_path / "model", Shape("gemma3", num_layers=7, sliding_window=9, extra=extra), seed)
    build(tmp_path, "reference")
    report = json.loads(run("inspect", tmp_path / "engine", "--json").stdout)
    assert report["facts"]["model"]["sliding_window"] is None
    assert report["facts"]["model"]["layer_kinds"] == [
        {"layers": "0-1, 3-4, 6", "sliding_window": 9, "rotary_base": 300.0},
        {"layers": "2, 5", "sliding_window": None, "rotary_base": 1e6},
    ]
    assert "layer_kinds" in run("inspect", tmp_path / "engine").stdout


def test_an_fp8_engine_is_judged_by_the_numbers_of_its_checkpoint(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    family = str(rng.choice(["llama", "mistral", "qwen2", "qwen3"]))
    dtype = torch.float32 if rng.random() < 0.5 else torch.bfloat16
    save_random_model(tmp_path / "model", random_shape(rng, family), seed, dtype)
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    round_to_float8(tmp_path / "checkpoint", rng)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe(target="reference", max_seq_len=64))
    words = ("verify", tmp_path / "model", tmp_path / "engine", "--max-tokens", 6, "--json")
    with pytest.raises(InflightError, match="quantized on data or by another tool") as caught:
        run(*words)
    assert "--checkpoint-dir" in (caught.value.hint or "")
    report = json.loads(run(*words, "--checkpoint-dir", tmp_path / "checkpoint").stdout)
    assert all(prompt["passed"] for prompt in report["prompts"]), report
    convert_model(tmp_path / "model", tmp_path / "plain")
    with pytest.raises(InflightError, match="was not built from"):
        run(*words, "--checkpoint-dir", tmp_path / "plain")


def test_a_wrong_fp8_engine_is_followed_through_its_checkpoint(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    for name, number in (("model", seed), ("other", seed + 1)):
        save_random_model(tmp_path / name, Shape(), number)
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    round_to_float8(tmp_path / "checkpoint", rng)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe(target="reference", max_seq_len=64))
    checkpoint = ("--checkpoint-dir", tmp_path / "checkpoint", "--max-tokens", 6, "--json")
    result = run("verify", tmp_path / "other", tmp_path / "engine", *checkpoint)
    assert result.exit_code == 1
    assert "checkpoint, embedding" in json.loads(result.stdout)["conclusion"]


def test_an_engine_of_another_model_fails_and_conversion_is_cleared(tmp_path: Path, seed: int) -> None:
    save_random_model(tmp_path / "model", Shape(), seed)
    save_random_model(tmp_path / "other", Shape(), seed + 1)
    result = run("verify", tmp_path / "other", build(tmp_path, "reference"), "--max-tokens", 6)
    assert result.exit_code == 1
    assert "the compiled engine does not" in " ".join(result.stdout.split())


def test_a_model_of_another_shape_is_refused_before_anything_runs(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    model = write_model(tmp_path / "model", config, random_tensors(config, rng))
    engine = write_null_engine(tmp_path / "engine")
    with pytest.raises(InflightError, match=r"built from another model .*hidden_size: 0, not 20"):
        run("verify", model, engine)


def test_a_wrong_conversion_is_traced_to_its_layer(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {**DECODER_NAMES}
    names["mlp.fc"], names["mlp.gate"] = names["mlp.gate"], names["mlp.fc"]
    wrong = tuple(replace(family, names=names) for family in families.FAMILIES if family.names == DECODER_NAMES)
    monkeypatch.setattr(families, "FAMILIES", wrong)
    save_random_model(tmp_path / "model", Shape(num_layers=3), seed)
    result = run("verify", tmp_path / "model", build(tmp_path, "reference"), "--max-tokens", 6, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["layers"][0]["error"] < 1e-5
    assert "checkpoint, layer 0. Conversion is at fault" in report["conclusion"]


def test_inspect_shows_the_model_the_checkpoint_and_the_engine(tmp_path: Path, seed: int) -> None:
    save_random_model(tmp_path / "model", Shape(num_layers=3), seed)
    build(tmp_path, "reference")
    seen: dict[str, Any] = {
        kind: json.loads(run("inspect", tmp_path / kind, "--json").stdout) for kind in ("model", "checkpoint", "engine")
    }
    assert {kind: report["kind"] for kind, report in seen.items()} == {kind: kind for kind in seen}
    assert seen["model"]["facts"]["convertible"] == "yes"
    layers = seen["checkpoint"]["tables"]["rank 0"]
    assert [row["layer"] for row in layers][1:4] == [f"transformer.layers.{i}" for i in range(3)]
    count = sum(row["parameters"] for row in seen["model"]["tables"]["tensors"])
    assert sum(row["parameters"] for row in layers) == count
    assert seen["engine"]["facts"]["model"]["num_hidden_layers"] == 3
    assert seen["engine"]["tables"]["modules"]
    for kind in seen:
        assert kind in run("inspect", tmp_path / kind, "--tensors").stdout

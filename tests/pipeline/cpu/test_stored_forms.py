"""Engines of checkpoints whose numbers come from other tools or from calibration; transformers on them is the judge."""

from __future__ import annotations

import json
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
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import CheckpointError, InflightError
from tests.models.float8 import write_tensors
from tests.models.random_models import Shape, random_shape, save_random_model
from tests.models.stored_forms import FORMS, SCALED_INPUTS, Form, store_as
from tests.network.support import ALL_FAMILIES, chosen, some_of

pytestmark = pytest.mark.pipeline

LIMITS: dict[str, Any] = {"max_batch_size": 2, "max_seq_len": 64, "max_num_tokens": 8}
PROJ = "transformer.layers.1.mlp.proj"


def run(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)


def checkpoint_of(
    directory: Path, shape: Shape, seed: int, rng: np.random.Generator, form: Form, dtype: torch.dtype = torch.float32
) -> Path:
    """A checkpoint of this form, and the plain model beside it."""
    save_random_model(directory / "model", shape, seed, dtype)
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False))
    store_as(directory / "checkpoint", form, rng)
    return directory / "checkpoint"


@pytest.mark.parametrize("target", ["cpu", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", some_of(2, FORMS))
def test_verify_finds_an_engine_of_such_a_checkpoint_right(
    tmp_path: Path, form: Any, target: str, seed: int, rng: np.random.Generator
) -> None:
    form = chosen(form, rng)
    family, dtype = str(rng.choice(ALL_FAMILIES)), torch.float32 if rng.random() < 0.5 else torch.bfloat16
    checkpoint = checkpoint_of(tmp_path, random_shape(rng, family), seed, rng, form, dtype)
    build_engine(checkpoint, tmp_path / "engine", make_recipe(target, **LIMITS))
    flags = ["--checkpoint-dir", checkpoint, "--max-tokens", 6, "--json"]
    result = run("verify", tmp_path / "model", tmp_path / "engine", *flags)
    assert result.exit_code == 0, (form, family, dtype, json.loads(result.stdout))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_verify_needs_the_checkpoint_of_numbers_that_convert_does_not_make(
    tmp_path: Path, form: Form, seed: int, rng: np.random.Generator
) -> None:
    checkpoint = checkpoint_of(tmp_path, Shape(), seed, rng, form)
    build_engine(checkpoint, tmp_path / "engine", make_recipe("reference", **LIMITS))
    with pytest.raises(InflightError, match="scales cannot be made from the model again"):
        run("verify", tmp_path / "model", tmp_path / "engine")


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("prequant_scaling_factor", np.nan),
        ("prequant_scaling_factor", np.inf),
        ("activation_scaling_factor", 0.0),
        ("activation_scaling_factor", -1.0),
        ("weights_scaling_factor", np.nan),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(
    tmp_path: Path, seed: int, rng: np.random.Generator, tensor: str, value: float
) -> None:
    form = next(form for form in FORMS if form.name == "static smoothquant")
    directory = checkpoint_of(tmp_path, Shape(), seed, rng, form)
    checkpoint = Checkpoint.open(directory)
    tensors = {name: np.array(checkpoint.array(name)) for name in checkpoint.tensors}
    tensors[f"{PROJ}.{tensor}"][-1] = value
    write_tensors(directory, tensors)
    with pytest.raises(CheckpointError, match=rf"mlp\.proj\.{tensor} holds {value}"):
        build_engine(directory, tmp_path / "engine", make_recipe(**LIMITS))
    assert not (tmp_path / "engine").exists()


def test_lost_factors_are_named(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    directory = checkpoint_of(tmp_path, Shape(), seed, rng, SCALED_INPUTS[0])
    checkpoint = Checkpoint.open(directory)
    tensors = {name: np.array(checkpoint.array(name)) for name in checkpoint.tensors}
    del tensors[f"{PROJ}.prequant_scaling_factor"]
    write_tensors(directory, tensors)
    with pytest.raises(CheckpointError, match=r"mlp\.proj\.prequant_scaling_factor is missing"):
        Checkpoint.open(directory)

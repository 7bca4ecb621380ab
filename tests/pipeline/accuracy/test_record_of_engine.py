"""The accuracy record on its way: measured, kept, shown, carried into engines, and required of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from inflight.accuracy.record import ACCURACY_NAME
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import BuildError, InflightError
from inflight.runtime.loading.accuracy import engine_subject
from inflight.runtime.loading.engine_directory import read_engine_directory
from tests.engines.serving_engines import write_tokenizer
from tests.models.random_models import Shape, save_random_model

pytestmark = pytest.mark.pipeline

FLAGS = ("--max-batch-size", 4, "--max-seq-len", 64)


def run(*words: object) -> Result:
    arguments = [str(word) for word in words]
    return CliRunner().invoke(build_app(arguments[:1]), arguments, catch_exceptions=False)


def build(checkpoint: Path, engine: Path, *flags: object) -> Result:
    result = run("build-engine", "--checkpoint-dir", checkpoint, "-o", engine, *FLAGS, *flags)
    assert result.exit_code == 0, result.output
    return result


def accuracy(path: Path) -> dict[str, Any]:
    """What inspect shows of it."""
    result = run("inspect", path, "--json")
    shown: dict[str, Any] = json.loads(result.stdout)["facts"].get("accuracy", {})
    return shown


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an int8 checkpoint and its engine, and a plain engine of the same model."""
    place = tmp_path_factory.mktemp("made")
    backend = write_tokenizer(place / "model")
    shape = Shape(vocab_size=backend.get_vocab_size(with_added_tokens=True), max_positions=64)
    save_random_model(place / "model", shape, 7, torch.bfloat16)
    for name, options in (("plain", {}), ("int8", {"quantize": "int8_w8a8"})):
        convert_model(place / "model", place / name, ConvertOptions.model_validate({"progress": False, **options}))
        build(place / name, place / f"{name}-engine")
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of `made`, to write records into."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def record(place: Path, *more: object) -> None:
    engines = (place / "int8-engine", "--against", place / "plain-engine", "--threads", 1)
    result = run("eval", *engines, "--tokens", 300, "--record", *more)
    assert result.exit_code == 0, result.output


def test_the_digest_of_the_subject_is_that_of_the_manifest(made: Path) -> None:
    told = json.loads((made / "int8-engine" / "manifest.json").read_text())["digest"]
    assert engine_subject(read_engine_directory(made / "int8-engine").manifest).engine_digest == told


def test_a_record_is_shown_and_the_same_measurement_gives_its_bytes(place: Path) -> None:
    assert accuracy(place / "int8-engine") == {}
    record(place, "--json", place / "out.json")
    written = (place / "int8-engine" / ACCURACY_NAME).read_bytes()
    shown, report = accuracy(place / "int8-engine"), json.loads((place / "out.json").read_text())
    assert shown["measured_on"] == "engine" and shown["figures"] == report["figures"]
    assert shown["scored_tokens"] == report["scored_tokens"] > 0
    assert shown["reference"]["checkpoint_sha256"] == Checkpoint.open(place / "plain").sha256()
    assert shown["figures"]["kl"]["value"] > 0 and shown["texts"][0]["sha256"] == report["texts"][0]["sha256"]
    assert "accuracy.figures.kl.value" in run("inspect", place / "int8-engine").stdout
    record(place)
    assert (place / "int8-engine" / ACCURACY_NAME).read_bytes() == written


def test_a_record_of_another_engine_is_named(place: Path) -> None:
    record(place)
    shutil.copy(place / "int8-engine" / ACCURACY_NAME, place / "plain-engine")
    assert "on other weights" in accuracy(place / "plain-engine")["problem"]
    build(place / "int8", place / "again", "--target", "reference")
    shutil.copy(place / "int8-engine" / ACCURACY_NAME, place / "again")
    assert "on another engine" in accuracy(place / "again")["problem"]


@pytest.mark.slow
def test_a_checkpoint_carries_its_record_into_engines_that_meet_it(place: Path, rng: np.random.Generator) -> None:
    digest = Checkpoint.open(place / "int8").sha256()
    record(place, "--checkpoint-dir", place / "int8")
    assert Checkpoint.open(place / "int8").sha256() == digest
    figures = accuracy(place / "int8")["figures"]
    bound = figures["kl"]["value"] * rng.uniform(1.01, 2)
    build(place / "int8", place / "engine", "--require", f"kl<={bound}, top1>=0.01", "--require", "ppl<=1e9")
    shown = accuracy(place / "engine")
    assert shown["measured_on"] == "checkpoint" and shown["figures"] == figures
    build(place / "int8", place / "same", "--require", f"kl<={bound}")
    assert [(path.name, path.read_bytes()) for path in sorted((place / "engine").glob("*.*"))] == [
        (path.name, path.read_bytes()) for path in sorted((place / "same").glob("*.*"))
    ]


def test_an_engine_that_is_worse_than_required_is_not_built(place: Path) -> None:
    arguments = ("build-engine", "--checkpoint-dir", place / "int8", "-o", place / "engine", *FLAGS)
    with pytest.raises(BuildError, match="has no accuracy record"):
        run(*arguments, "--require", "kl<=9")
    record(place, "--checkpoint-dir", place / "int8")
    with pytest.raises(BuildError, match="kl<=1e-09: kl is 0") as error:
        run(*arguments, "--require", "kl<=1e-9,top1>=1.1")
    assert "top1>=1.1: top1 is" in error.value.message
    with pytest.raises(BuildError, match="a KV cache of bfloat16, and this one is int8"):
        run(*arguments, "--kv-cache-dtype", "int8", "--require", "kl<=9")
    with pytest.raises(InflightError, match="there is no figure loss"):
        run(*arguments, "--require", "loss<=9")
    assert not (place / "engine").exists()


def test_a_foreign_record_of_a_checkpoint_is_named_and_left_out(place: Path) -> None:
    record(place, "--checkpoint-dir", place / "int8")
    shutil.copy(place / "int8" / ACCURACY_NAME, place / "plain")
    result = build(place / "plain", place / "engine")
    assert "on other weights" in result.stderr and accuracy(place / "engine") == {}


def test_a_record_goes_only_where_it_belongs(place: Path) -> None:
    with pytest.raises(InflightError, match="was not built from"):
        record(place, "--checkpoint-dir", place / "plain")
    assert run("eval", place / "int8-engine", "--checkpoint-dir", place / "int8").exit_code == 2
    with pytest.raises(InflightError, match="Nothing was measured"):
        record(place, "--tokens", 0)
    assert not list(place.rglob(ACCURACY_NAME))

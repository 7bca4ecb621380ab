"""Damaged models, checkpoints and engines: what is noticed is an InflightError, and what is not makes no difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.build.engine import build_engine, plan_engine
from inflight.build.registry import make_recipe
from inflight.cli.inspect import describe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.engine_format.manifest import MANIFEST_NAME
from inflight.errors import EngineError, InflightError
from inflight.runtime.executors.base import Executor
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.engines.engine_files import edit_manifest
from tests.models.random_models import Shape, save_random_model
from tests.models.tiny_tokenizers import byte_fallback
from tests.pipeline.damage import damaged_copy
from tests.pipeline.stepping import Run, run_all

pytestmark = pytest.mark.pipeline

TRIALS = 40
LIMITS: dict[str, Any] = {"max_batch_size": 1, "max_seq_len": 64, "max_num_tokens": 32, "tokens_per_block": 16}
OPTIONS = ConvertOptions(progress=False)
PROMPT = (5, 6, 7, 250, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in two files with a tokenizer, its checkpoint, and its engines of both targets."""
    root = tmp_path_factory.mktemp("whole")
    shape = Shape(vocab_size=600, family="gemma2", sliding_window=9, num_layers=2)
    model = save_random_model(root / "model", shape, int(np.random.default_rng().integers(1, 2**31)))
    (root / "model" / "model.safetensors").unlink()
    model.save_pretrained(root / "model", max_shard_size="200KB")
    assert (root / "model" / "model.safetensors.index.json").is_file()
    byte_fallback().save(str(root / "model" / "tokenizer.json"))
    (root / "model" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
    )
    convert_model(root / "model", root / "checkpoint", OPTIONS)
    for target in ("cpu", "reference"):
        build_engine(root / "checkpoint", root / target, make_recipe(target, **LIMITS))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


def tokens(executor: Executor) -> list[int]:
    run = Run(PROMPT, RowSampling(temperature=0.0), 12)
    run_all(executor, [run], np.random.default_rng(1), lambda: 5)
    executor.close()
    return [result.token_id for result in run.results]


def load(engine: Path) -> Executor:
    return load_engine(engine, threads=1, kv_cache=KvCacheBudget(tokens=64))


def test_a_damaged_model_is_converted_or_refused(root: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """A flipped bit of a weight is another weight; nobody can tell."""
    for trial in range(TRIALS):
        what = damaged_copy(root / "model", tmp_path / "model", rng)
        try:
            describe(tmp_path / "model", every_tensor=False)
            convert_model(tmp_path / "model", tmp_path / "out", OPTIONS)
            plan_engine(tmp_path / "out", make_recipe("reference", **LIMITS))
        except InflightError:
            pass
        except BaseException as error:
            raise AssertionError(f"trial {trial}: {what}") from error
        _clear(tmp_path)


def test_a_damaged_checkpoint_is_built_or_refused(root: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    for trial in range(TRIALS):
        what = damaged_copy(root / "checkpoint", tmp_path / "checkpoint", rng)
        try:
            describe(tmp_path / "checkpoint", every_tensor=True)
            plan_engine(tmp_path / "checkpoint", make_recipe("cpu", **LIMITS))
            build_engine(tmp_path / "checkpoint", tmp_path / "out", make_recipe("reference", **LIMITS))
            tokens(load(tmp_path / "out"))
        except InflightError:
            pass
        except BaseException as error:
            raise AssertionError(f"trial {trial}: {what}") from error
        _clear(tmp_path)


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_a_damaged_engine_gives_the_tokens_of_the_whole_one_or_none(
    target: str, root: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    expected = tokens(load(root / target))
    for trial in range(TRIALS):
        what = damaged_copy(root / target, tmp_path / "engine", rng)
        try:
            describe(tmp_path / "engine", every_tensor=False)
            assert tokens(load(tmp_path / "engine")) == expected
        except InflightError:
            pass
        except BaseException as error:
            raise AssertionError(f"trial {trial}: {what}") from error
        _clear(tmp_path)


def test_a_reference_engine_whose_manifest_allows_more_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "reference", tmp_path / "engine")
    facts = json.loads((tmp_path / "engine" / MANIFEST_NAME).read_text())
    for section, key, name in (("limits", "max_seq_len", "past_key.0"), ("model", "vocab_size", "logits")):
        edit_manifest(tmp_path / "engine", **{section: {**facts[section], key: facts[section][key] + 1}})
        with pytest.raises(EngineError, match=f"built for another engine: {name} is"):
            load_engine(tmp_path / "engine", threads=1)
        edit_manifest(tmp_path / "engine", **{section: facts[section]})


def _clear(directory: Path) -> None:
    for name in ("model", "checkpoint", "engine", "out"):
        shutil.rmtree(directory / name, ignore_errors=True)

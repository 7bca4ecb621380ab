"""Damaged models, checkpoints and engines: what is noticed is an InflightError, and what is not makes no difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inflight.engine_format.manifest import MANIFEST_NAME
from inflight.errors import EngineError
from inflight.runtime.loading.load import load_engine
from tests.engines.engine_files import edit_manifest
from tests.pipeline.damaged.damaged_files import TARGETS, damage_checkpoints, damage_engines, damage_models, write_whole

pytestmark = pytest.mark.pipeline

TRIALS = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write_whole(root, int(np.random.default_rng().integers(1, 2**31)))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


def test_a_damaged_model_is_converted_or_refused(root: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    damage_models(root, tmp_path, rng, TRIALS)


def test_a_damaged_checkpoint_is_built_or_refused(root: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    damage_checkpoints(root, tmp_path, rng, TRIALS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_engine_gives_the_tokens_of_the_whole_one_or_none(
    target: str, root: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    damage_engines(target, root, tmp_path, rng, TRIALS)


def test_a_reference_engine_whose_manifest_allows_more_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "reference", tmp_path / "engine")
    facts = json.loads((tmp_path / "engine" / MANIFEST_NAME).read_text())
    for section, key, name in (("limits", "max_seq_len", "past_key.0"), ("model", "vocab_size", "logits")):
        edit_manifest(tmp_path / "engine", **{section: {**facts[section], key: facts[section][key] + 1}})
        with pytest.raises(EngineError, match=f"built for another engine: {name} is"):
            load_engine(tmp_path / "engine", threads=1)
        edit_manifest(tmp_path / "engine", **{section: facts[section]})

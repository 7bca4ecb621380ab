"""An engine that is built anew at the same place in one process: the new one is new, and the old one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.engine_format.manifest import MANIFEST_NAME
from inflight.errors import EngineError
from inflight.runtime.executors.base import Executor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.engines.engine_files import edit_manifest
from tests.models.random_models import Shape, save_random_model
from tests.pipeline.stepping import Run, run_all

pytestmark = pytest.mark.pipeline

LIMITS: dict[str, Any] = {"max_batch_size": 1, "max_seq_len": 128, "max_num_tokens": 64, "tokens_per_block": 16}
NEW_TOKENS = 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


def build(root: Path, seed: int, window: int, **recipe: Any) -> PreTrainedModel:
    """A model of that window, converted and built into the same directories as any before it."""
    model = save_random_model(root / "model", Shape(family="mistral", sliding_window=window), seed)
    convert_model(root / "model", root / "checkpoint", ConvertOptions(overwrite=True))
    build_engine(root / "checkpoint", root / "engine", make_recipe(**LIMITS | recipe), overwrite=True)
    return model


def tokens(executor: Executor, prompt: tuple[int, ...], rng: np.random.Generator) -> list[int]:
    run = Run(prompt, RowSampling(temperature=0.0), NEW_TOKENS)
    run_all(executor, [run], rng, lambda: int(rng.integers(1, 40)))
    return [result.token_id for result in run.results]


def expected(model: PreTrainedModel, prompt: tuple[int, ...]) -> list[int]:
    ids: list[int] = list(prompt)
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_an_engine_built_anew_at_the_same_place_runs_its_own_code_while_the_old_one_goes_on(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    prompt = tuple(int(token) for token in rng.integers(257, size=40))
    narrow = build(tmp_path, seed, window=4)
    old = load_engine(tmp_path / "engine", threads=2)
    before = tokens(old, prompt, rng)
    wide = build(tmp_path, seed, window=100)
    new = load_engine(tmp_path / "engine", threads=2)
    assert tokens(new, prompt, rng) == expected(wide, prompt)
    assert tokens(old, prompt, rng) == before == expected(narrow, prompt)
    assert tokens(new, prompt, rng) != before
    old.close()
    assert tokens(new, prompt, rng) == expected(wide, prompt)
    new.close()


def test_new_weights_of_the_same_shape_are_the_new_engines_alone(
    tmp_path: Path, seed: int, rng: np.random.Generator
) -> None:
    """Code that is the same is shared; what the old engine reads stays as it was."""
    prompt = tuple(int(token) for token in rng.integers(257, size=40))
    models, engines = [], []
    for offset in range(2):
        models.append(build(tmp_path, seed + offset, window=9))
        engines.append(load_engine(tmp_path / "engine", threads=1))
    for model, engine in zip(models, engines, strict=True):
        assert tokens(engine, prompt, rng) == expected(model, prompt)
        engine.close()


def test_a_manifest_that_allows_what_was_not_compiled_is_refused(tmp_path: Path, seed: int) -> None:
    """The scheduler makes steps as large as the manifest says, and one that the library refuses ends the engine."""
    build(tmp_path, seed, window=9)
    engine = tmp_path / "engine"
    manifest = load_manifest(engine)
    for name, value in manifest["limits"].items():
        for other in (value + 1, 2 * value, value - 1):
            if other > 0:
                edit_manifest(engine, limits={**manifest["limits"], name: other})
                with pytest.raises(EngineError, match=f"limits.{name} is {other:,} and not {value:,}"):
                    load_engine(engine)
    edit_manifest(engine, limits=manifest["limits"], kv_cache={**manifest["kv_cache"], "tokens_per_block": 32})
    with pytest.raises(EngineError, match="tokens_per_block is 32 and not 16"):
        load_engine(engine)
    own = manifest["target_facts"]
    other_build = [{**variant, "digest": "0" * 64} for variant in own["variants"]]
    edit_manifest(engine, kv_cache=manifest["kv_cache"], target_facts={**own, "variants": other_build})
    with pytest.raises(EngineError, match=f"digest of its code is {'0' * 64} and not {own['variants'][0]['digest']}"):
        load_engine(engine)
    edit_manifest(engine, target_facts=own)
    load_engine(engine).close()


def load_manifest(engine: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((engine / MANIFEST_NAME).read_text())
    return facts

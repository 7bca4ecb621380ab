"""Compiled engines of networks in forms that no family has in one model, with ONNX Runtime as the judge.

The network that is built from the checkpoint is changed on its way to the target; all else is a build as any other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from inflight.build import engine
from inflight.build.network import build_network
from inflight.build.registry import make_recipe
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.loading.load import load_engine
from tests.models.random_models import random_shape
from tests.network.forms import random_form
from tests.network.support import FAMILIES, Case, LinearRunner, chosen, make_case, relative_error, some_of
from tests.pipeline.stepping import prompt_logits

pytestmark = pytest.mark.pipeline

MAX_SEQ_LEN = 300  # more than one split of the context
LIMITS = {"max_batch_size": 2, "max_seq_len": MAX_SEQ_LEN, "max_num_tokens": 100, "max_logit_rows": 100}
# Of what part of the rows, and how near. What is rounded to integers may fall to either side of an edge between levels.
TOLERANCES: dict[str, tuple[dict[str, Any], dict[str, Any], float, float]] = {
    "float32": ({}, {}, 1.0, 1e-4),
    "int8 cache": ({}, {"kv_cache_dtype": "int8"}, 0.5, 0.1),
    "int4": ({"quantize": "int4_wo", "group_size": 32}, {}, 0.5, 5e-3),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", some_of(2, TOLERANCES))
def test_an_engine_of_any_form_computes_what_its_network_means(
    kind: Any, tmp_path: Path, rng: np.random.Generator, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion, recipe, part, tolerance = TOLERANCES[chosen(kind, rng)]
    shape = replace(random_shape(rng, str(rng.choice(FAMILIES))), num_layers=3, sliding_window=None)
    case = make_case(tmp_path, shape, seed, torch.float32, **conversion)
    network = build_network(case.checkpoint, MAX_SEQ_LEN)
    print(shape, random_form(network.graph, rng, MAX_SEQ_LEN))
    executor = _engine(case, network, tmp_path / "engine", recipe, monkeypatch)
    prompt = rng.integers(0, shape.vocab_size, int(rng.integers(1, MAX_SEQ_LEN)))
    expected = LinearRunner(case.checkpoint, MAX_SEQ_LEN, network=network).run([prompt])
    found = prompt_logits(executor, prompt.tolist())
    executor.close()
    errors = [relative_error(*rows) for rows in zip(found, expected, strict=True)]
    assert np.quantile(errors, part) < tolerance


def _engine(
    case: Case, network: ir.Model, directory: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> CpuExecutor:
    def changed(checkpoint: Checkpoint, max_seq_len: int) -> ir.Model:
        assert (checkpoint.directory, max_seq_len) == (case.checkpoint.directory, MAX_SEQ_LEN)
        return network

    monkeypatch.setattr(engine, "build_network", changed)
    engine.build_engine(case.checkpoint.directory, directory, make_recipe(**{**LIMITS, **recipe}))
    executor = load_engine(directory, threads=2)
    assert isinstance(executor, CpuExecutor)
    return executor

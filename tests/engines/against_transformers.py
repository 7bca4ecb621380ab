"""What every compiled float32 engine must do, with transformers as the judge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.scheduler.step import RowSampling
from tests.engines.built_engine import BuiltEngine
from tests.pipeline.stepping import Run, prompt_logits, run_all

Logits = npt.NDArray[np.float64]
RELATIVE_ERROR = 1e-4


def oracle_logits(model: PreTrainedModel, tokens: tuple[int, ...]) -> Logits:
    """transformers' logits [len(tokens), vocab], computed in the model's type."""
    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens])).logits[0].to(torch.float64))


def assert_same_logits(engine: BuiltEngine, executor: CpuExecutor, rng: np.random.Generator) -> None:
    prompt = engine.random_prompt(rng, 150)
    expected = oracle_logits(engine.model, prompt)
    error = np.abs(prompt_logits(executor, prompt) - expected).max(axis=1)
    assert (error / np.abs(expected).max(axis=1)).max() < RELATIVE_ERROR


def assert_same_greedy_tokens(engine: BuiltEngine, executor: CpuExecutor, rng: np.random.Generator) -> None:
    """64 of them. A token may differ only where transformers' own logits for both are as near as the error allowed."""
    run = Run(engine.random_prompt(rng, 60), RowSampling(), 64)
    run_all(executor, [run], rng, lambda: int(rng.integers(1, 60)))
    logits = oracle_logits(engine.model, run.token_ids)
    for row, token in zip(logits[len(run.prompt) - 1 :], run.token_ids[len(run.prompt) :], strict=False):
        if token != row.argmax():
            assert row.max() - row[token] < RELATIVE_ERROR * np.abs(row).max()
            return

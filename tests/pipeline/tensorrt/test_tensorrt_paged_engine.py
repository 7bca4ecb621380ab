"""An engine of full TensorRT over a paged cache, on a machine that can build and run one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.errors import EngineError
from inflight.runtime.executors.tensorrt.device import require_gpu
from inflight.runtime.executors.tensorrt.executor import TensorRtExecutor
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.models.random_models import random_shape
from tests.network.paging import scattered_sequences
from tests.network.support import FAMILIES, make_case, random_chunks, relative_error

pytestmark = pytest.mark.pipeline

SEQUENCES, LENGTH, TOKENS_PER_BLOCK = 4, 320, 32


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2e-2), ("bfloat16", 1e-1)])
def test_ragged_steps_over_scattered_blocks_stay_near_transformers(
    dtype: str, bound: float, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """Twice over, so that decodes are captured as CUDA graphs and run from them."""
    pytest.importorskip("tensorrt", reason="full TensorRT is not installed", exc_type=ImportError)
    try:
        require_gpu()
    except EngineError as error:
        pytest.skip(error.message)
    shape = replace(random_shape(rng, str(rng.choice(FAMILIES))), head_size=64)
    case = make_case(tmp_path, shape, seed, getattr(torch, dtype))
    limits = {"max_seq_len": LENGTH, "max_batch_size": SEQUENCES, "max_num_tokens": 64}
    flags: dict[str, Any] = {"target": "tensorrt", "full": True, "kv_cache_type": "paged"}
    flags["tokens_per_block"] = TOKENS_PER_BLOCK
    recipe = make_recipe(**{**flags, **limits})
    build_engine(case.checkpoint.directory, tmp_path / "engine", recipe)
    executor = load_engine(tmp_path / "engine", kv_cache=KvCacheBudget(tokens=SEQUENCES * LENGTH))
    assert isinstance(executor, TensorRtExecutor)
    vocab = case.checkpoint.config.vocab_size
    sequences, _ = scattered_sequences(rng, vocab, SEQUENCES, LENGTH, TOKENS_PER_BLOCK)
    for _ in range(2):
        pending = [random_chunks(rng, sequence.token_ids) for sequence in sequences]
        done = [0] * SEQUENCES
        while any(pending):
            chosen = [index for index in range(SEQUENCES) if pending[index]]
            scheduled = []
            for index in chosen:
                chunk, table = pending[index].pop(0).tolist(), sequences[index].blocks.tolist()
                greedy = RowSampling()
                scheduled.append(ScheduledSequence(index, chunk, done[index], table, greedy, sample_last=True))
                done[index] += len(chunk)
            _, logits = executor.execute_with_logits(StepBatch(scheduled))
            for index, row in zip(chosen, logits, strict=True):
                expected = case.expected(sequences[index].token_ids)[done[index] - 1]
                assert relative_error(row, expected) < bound
    executor.close()

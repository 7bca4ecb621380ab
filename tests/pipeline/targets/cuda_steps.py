"""Steps of cuda engines in tests: small limits, and parts of sequences in place of a scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch

LIMITS = {"max_batch_size": 6, "max_seq_len": 64, "max_num_tokens": 48, "max_logit_rows": 8, "tokens_per_block": 16}
BLOCKS = 12


def chunk(slot: int, tokens: list[int], blocks: list[int], *, start: int = 0, prompt: int = 0) -> ScheduledSequence:
    """The tokens from `start` on, of a sequence with `prompt` tokens of prompt; a token is chosen after the last."""
    return ScheduledSequence(slot, tokens[start:], start, blocks, RowSampling(), sample_last=True, prompt_length=prompt)


def logits(executor: Any, *sequences: ScheduledSequence) -> npt.NDArray[np.float32]:
    return np.asarray(executor.execute_with_logits(StepBatch(sequences))[1])

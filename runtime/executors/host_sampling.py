"""Sampling on the host, in NumPy: from the logits of one sequence to its result. For engines that return logits."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.sampling.reference import sample_row, score_row
from inflight.runtime.scheduler.step import ScheduledSequence, SequenceResult

Floats: TypeAlias = npt.NDArray[np.float32]


def sequence_result(sequence: ScheduledSequence, logits: Floats) -> SequenceResult:
    """The scores of the prompt targets, and the token of the last row. logits: [num_logit_rows, vocab]."""
    scored = tuple(
        score_row(row, target, sequence.prompt_num_logprobs)
        for row, target in zip(logits, sequence.prompt_targets, strict=False)
    )
    if not sequence.sample_last or sequence.sampling is None:
        return SequenceResult(None, scored)
    end = sequence.start + len(sequence.token_ids)
    sampled = sample_row(
        logits[-1],
        sequence.sampling,
        end,
        sequence.history,
        sequence.prompt_length,
        sequence.banned,
        sequence.allowed,
        sequence.token_ids[-1],
    )
    return SequenceResult(sampled, scored)

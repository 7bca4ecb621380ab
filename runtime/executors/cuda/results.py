"""Tokens and log probabilities of a step, as the sampling kernels leave them, read into a StepOutput."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inflight.engine_format.cuda_facts import MOST_REPORTED
from inflight.engine_format.manifest import EngineManifest
from inflight.runtime.executors.cuda.backend import Array
from inflight.runtime.executors.cuda.layout import Bytes, Field, Layout
from inflight.runtime.scheduler.step import ScheduledSequence, SequenceResult, StepOutput, TokenResult


def results_layout(manifest: EngineManifest) -> Layout:
    """Of each logit row its token, and what is reported of a token."""
    rows = manifest.limits.max_logit_rows
    return Layout(
        {
            "tokens": Field(np.int32, (rows,)),
            "logprobs": Field(np.float32, (rows,)),
            "ranks": Field(np.int32, (rows,)),
            "top_ids": Field(np.int32, (rows, MOST_REPORTED)),
            "top_logprobs": Field(np.float32, (rows, MOST_REPORTED)),
        }
    )


class Results:
    """The fields of `layout` in `memory`, for a vocabulary of so many tokens."""

    def __init__(self, layout: Layout, memory: Bytes, vocab: int) -> None:
        self._layout = layout
        self._arrays = layout.views(memory)
        self._most = min(MOST_REPORTED, vocab)

    def sections(self, rows: int, *, reported: bool) -> list[tuple[int, Array]]:
        """What is to be read of the device's memory for so many rows, and from where, in bytes behind its beginning."""
        names = self._layout.fields if reported else ("tokens",)
        return [(self._layout.offsets[name], self._arrays[name][:rows]) for name in names]

    def output(self, sequences: Sequence[ScheduledSequence]) -> StepOutput:
        """Rows are in the order of the sequences: a sequence's prompt targets, then its choice."""
        tokens = self._arrays["tokens"].tolist()
        token_ids: list[int | None] = []
        scored: dict[int, SequenceResult] = {}
        row = 0
        for place, sequence in enumerate(sequences):
            choice = row + len(sequence.prompt_targets)
            token = tokens[choice] if sequence.sample_last else None
            token_ids.append(token)
            wanted = sequence.sampling.num_logprobs if sequence.sample_last and sequence.sampling else -1
            if sequence.prompt_targets or wanted >= 0:
                targets = enumerate(sequence.prompt_targets, row)
                prompt = tuple(self._of(each, target, sequence.prompt_num_logprobs) for each, target in targets)
                scored[place] = SequenceResult(None if token is None else self._of(choice, token, wanted), prompt)
            row += sequence.num_logit_rows
        return StepOutput(token_ids, scored)

    def _of(self, row: int, token: int, wanted: int) -> TokenResult:
        if wanted < 0:
            return TokenResult(token)
        count = min(wanted, self._most)
        ids, values = (self._arrays[name][row, :count].tolist() for name in ("top_ids", "top_logprobs"))
        logprob, rank = float(self._arrays["logprobs"][row]), int(self._arrays["ranks"][row])
        return TokenResult(token, logprob, rank, tuple(zip(ids, values, strict=True)))

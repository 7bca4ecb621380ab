"""Results of a step: `inflight_output`, read into a StepOutput."""

from __future__ import annotations

from inflight.engine_format.cpu_abi import MAX_TOP_LOGPROBS, Output
from inflight.runtime.executors.cpu.arrays import Cells
from inflight.runtime.scheduler.step import ScheduledSequence, SequenceResult, StepBatch, StepOutput, TokenResult


class StepResults:
    """The arrays behind `output`: an entry per logit row, and MAX_TOP_LOGPROBS of the most likely tokens."""

    def __init__(self, max_logit_rows: int, vocab_size: int) -> None:
        self._max_top = min(MAX_TOP_LOGPROBS, vocab_size)
        self._tokens = Cells("i", max_logit_rows)
        self._logprobs = Cells("f", max_logit_rows)
        self._ranks = Cells("i", max_logit_rows)
        self._top_ids = Cells("i", max_logit_rows * MAX_TOP_LOGPROBS)
        self._top_logprobs = Cells("f", max_logit_rows * MAX_TOP_LOGPROBS)
        self.output = Output(
            tokens=self._tokens.address,
            logprobs=self._logprobs.address,
            ranks=self._ranks.address,
            top_ids=self._top_ids.address,
            top_logprobs=self._top_logprobs.address,
        )

    def tokens(self, count: int) -> list[int]:
        """The tokens of the first `count` rows."""
        return self._tokens.view[:count].tolist()

    def read(self, batch: StepBatch) -> StepOutput:
        """Rows are in the order of the sequences: a sequence's prompt targets, then its choice."""
        token_ids: list[int | None] = []
        scored: dict[int, SequenceResult] = {}
        row = 0
        for place, sequence in enumerate(batch.sequences):
            end = row + sequence.num_logit_rows
            token_ids.append(self._tokens.view[end - 1] if sequence.sample_last else None)
            if sequence.prompt_targets or (sequence.sampling is not None and sequence.sampling.num_logprobs >= 0):
                scored[place] = self._result(sequence, row)
            row = end
        return StepOutput(token_ids, scored)

    def _result(self, sequence: ScheduledSequence, row: int) -> SequenceResult:
        choice = row + len(sequence.prompt_targets)
        prompt = tuple(self._token(each, sequence.prompt_num_logprobs) for each in range(row, choice))
        if not sequence.sample_last:
            return SequenceResult(None, prompt)
        num_logprobs = -1 if sequence.sampling is None else sequence.sampling.num_logprobs
        return SequenceResult(self._token(choice, num_logprobs), prompt)

    def _token(self, row: int, num_logprobs: int) -> TokenResult:
        token_id = self._tokens.view[row]
        if num_logprobs < 0:
            return TokenResult(token_id)
        first = row * MAX_TOP_LOGPROBS
        end = first + min(num_logprobs, self._max_top)
        top = zip(self._top_ids.view[first:end].tolist(), self._top_logprobs.view[first:end].tolist(), strict=True)
        return TokenResult(token_id, self._logprobs.view[row], self._ranks.view[row], tuple(top))

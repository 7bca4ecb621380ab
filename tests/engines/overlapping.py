"""Any executor as one whose device computes by itself: OverlappingExecutor, with steps that are computed late."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from inflight.runtime.executors.base import Executor
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch, StepOutput


class Overlapping:
    """Steps of `inner`, in order: on a thread of their own, or with `late` not before they are collected, when what
    follows them has been scheduled and what came before them published. `ahead`: steps submitted before the one before
    them was collected.
    """

    def __init__(self, inner: Executor, *, late: bool = False) -> None:
        self.inner, self.manifest, self.num_blocks = inner, inner.manifest, inner.num_blocks
        self.ahead = 0
        self._late = late
        self._thread = ThreadPoolExecutor(1)
        self._tokens: list[int | None] = []
        self._under_way: list[tuple[StepBatch, Future[StepOutput]]] = []

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.collect(self.submit(batch))

    def submit(self, batch: StepBatch) -> Future[StepOutput]:
        assert len(self._under_way) < 2, "two steps at most are under way"
        self.ahead += len(self._under_way)
        assert self._under_way or not any(each.follows >= 0 for each in batch.unmasked), "nothing goes before this step"
        # Records may change from now on; lists only grow, and a mask comes with `sequences`.
        kept = StepBatch([replace(each) for each in batch.sequences])
        future: Future[StepOutput] = Future()
        self._under_way.append((kept, future))
        if not self._late:
            self._thread.submit(self._compute, kept, future)
        return future

    def collect(self, submitted: Future[StepOutput]) -> StepOutput:
        batch, first = self._under_way.pop(0)
        assert first is submitted, "steps are collected in order"
        if self._late:
            self._compute(batch, first)
        return first.result()

    def close(self) -> None:
        self._thread.shutdown()
        self.inner.close()

    def _compute(self, batch: StepBatch, future: Future[StepOutput]) -> None:
        try:
            known = [self._with_token(each) for each in batch.unmasked]
            output = self.inner.execute(StepBatch(known))
            self._tokens = list(output.token_ids)
            future.set_result(output)
        except BaseException as error:
            future.set_exception(error)

    def _with_token(self, record: ScheduledSequence) -> ScheduledSequence:
        if record.follows < 0:
            return record
        token = self._tokens[record.follows]
        assert token is not None, "it follows a sequence that chose no token"
        return record.with_token(token)

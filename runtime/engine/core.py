"""The loop: admit, schedule, execute, publish."""

from __future__ import annotations

import secrets
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from inflight.errors import RequestError
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.engine.publishing import final_delta, receive
from inflight.runtime.engine.stats import CoreStats, IterationStats
from inflight.runtime.engine.submissions import Submissions
from inflight.runtime.executors.base import Executor, copies_blocks
from inflight.runtime.kv_cache.block_tables import KvBlocks
from inflight.runtime.loading.task import refuse_pooling
from inflight.runtime.request.deltas import FinishReason, TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.request.validation import check_request, id_in_use
from inflight.runtime.sampling.rules import StopRules, row_sampling
from inflight.runtime.scheduler.scheduled_step import ScheduledStep
from inflight.runtime.scheduler.scheduler import Scheduler, SchedulerConfig
from inflight.runtime.scheduler.sequence import Sequence, SequenceGroup, Status
from inflight.runtime.scheduler.step import StepOutput

if TYPE_CHECKING:
    from inflight.runtime.kv_cache.offload.config import KvOffload
    from inflight.runtime.structured.compiler import GrammarCompiler
    from inflight.runtime.structured.grammar import Grammar


class EngineCore:
    """Turns requests into token deltas, step by step.

    `step` is `schedule`, `execute` and `publish`. Whoever calls from several threads lets one at a time in; only
    `prepare` and `compile_grammar` may be called at any time, and everything but `schedule`, `publish`, `abort` and
    `close` while another thread is inside `execute`. An executor that computes by itself gets the next step meanwhile
    (`Scheduler.schedule_ahead`), which `schedule` then returns; whoever waits starts a step later.

    `heartbeat` says which step runs. Without `grammars` structured output is refused. `offload`: where blocks are kept
    that leave the KV cache. Raises EngineError where that is not possible, and leaves the executor open.
    """

    def __init__(
        self,
        executor: Executor,
        config: SchedulerConfig | None = None,
        heartbeat: Heartbeat | None = None,
        grammars: GrammarCompiler | None = None,
        offload: KvOffload | None = None,
    ) -> None:
        refuse_pooling(executor.manifest)
        config = config or SchedulerConfig()
        self.heartbeat = heartbeat or Heartbeat()
        self._executor = executor
        self._submissions = Submissions(executor)
        self._manifest = executor.manifest
        self._grammars = grammars
        cache = self._manifest.kv_cache
        shares = config.enable_prefix_caching and cache.prefix_caching is not False
        self._blocks = KvBlocks(executor.num_blocks, cache.tokens_per_block, shares)
        if shares and (copying := copies_blocks(executor)) is not None:
            self._blocks.copy_tails(copying)
        self._scheduler = Scheduler(self._manifest.limits, self._blocks, config)
        if offload is not None:
            from inflight.runtime.kv_cache.offload.offload import open_offload

            if (kept := open_offload(executor, offload, prefix_caching=shares)) is not None:
                self._blocks.keep_in(kept)
        self._cache_tokens = executor.num_blocks * cache.tokens_per_block
        self._groups: dict[str, SequenceGroup] = {}
        self._unpublished: list[TokenDelta] = []
        self._step_under_way = self._failed = False
        # Sequences of the step under way that are to end with it.
        self._ending: list[Sequence] = []
        self._arrivals = self._prompt_tokens = self._output_tokens = 0
        self._last_iteration = IterationStats()

    @property
    def vocab_size(self) -> int:
        return self._manifest.model.vocab_size

    @property
    def max_length(self) -> int:
        """The most tokens that prompt and output may have together."""
        return min(self._manifest.limits.max_seq_len, self._cache_tokens)

    def add_request(self, request: Request) -> None:
        """Queue a request. Raises RequestError when it can never be served or its id is in use, OverloadedError when
        the queue is full."""
        self.enqueue(self.prepare(request))

    def prepare(self, request: Request) -> SequenceGroup:
        """Check a request and make its sequences: the work that grows with the prompt. Does not change the engine."""
        vocab_size = self._manifest.model.vocab_size
        room = check_request(
            request,
            vocab_size=vocab_size,
            max_seq_len=self._manifest.limits.max_seq_len,
            cache_tokens=self._cache_tokens,
        )
        grammar = self.compile_grammar(request)
        arrival = time.monotonic_ns() if request.arrival_ns is None else request.arrival_ns
        group = SequenceGroup(request, StopRules(request, vocab_size), arrival)
        seed = secrets.randbits(64) if request.params.seed is None else request.params.seed
        for index in range(request.num_sequences):
            sequence = Sequence(group, index, row_sampling(request.params, seed, index), room)
            sequence.grammar = None if grammar is None else grammar.copy()
            group.sequences.append(sequence)
        first, *siblings = group.sequences
        self._blocks.name_blocks(first, self._blocks.cacheable_blocks(first.prompt_length))
        for sibling in siblings:
            sibling.keys = first.keys.copy()
        return group

    def compile_grammar(self, request: Request) -> Grammar | None:
        """The grammar of its structured output and its reasoning, which is known from then on; None: it asks for none.
        May be called at any time. Raises RequestError for what cannot be compiled."""
        if not request.params.has_grammar:
            return None
        if self._grammars is None:
            raise RequestError("This engine has no tokenizer, so that it cannot make structured output.")
        return self._grammars.compile(request.params.structured_outputs, request.params.reasoning)

    def enqueue(self, *groups: SequenceGroup, place: int | None = None) -> int:
        """Queue what `prepare` returned, all of it or nothing; returns the place in the queue of the last. With `place`
        they go on with what had that place: they take it, and the queue has room for them. Raises RequestError when an
        unfinished request has the id of one or the queue could never hold them, OverloadedError when it cannot now."""
        for group in groups:
            if group.request.request_id in self._groups:
                raise id_in_use(group.request)
        if place is None:
            self._scheduler.check_queue(sum(len(group.sequences) for group in groups))
        for number, group in enumerate(groups):
            self._arrivals += place is None
            group.enter((self._arrivals, 0) if place is None else (place, number))
            self._groups[group.request.request_id] = group
            self._scheduler.add_group(group)
        return self._arrivals if place is None else place

    def check_queue(self, num_sequences: int) -> None:
        """Raises OverloadedError when so many sequences cannot be queued now, RequestError when they never can."""
        self._scheduler.check_queue(num_sequences)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences; the next `publish` returns the final delta.

        Its place in the queue or its blocks are free at once; where it is in the step under way, when that is
        published. Unknown ids and finished sequences are ignored.
        """
        group = self._groups.get(request_id)
        for sequence in group.sequences if group is not None else ():
            if index not in (None, sequence.index) or sequence.status is Status.FINISHED:
                continue
            if self._step_under_way and sequence.status is Status.RUNNING:
                self._ending.append(sequence)
            else:
                self._finish(sequence)
                self._unpublished.append(final_delta(sequence, "cancelled"))

    def step(self) -> list[TokenDelta]:
        """Run one step. Errors of the executor are passed on; call `abort` then to end what is unfinished."""
        step = self.schedule()
        return self.publish(step, None if step is None else self.execute(step))

    def schedule(self) -> ScheduledStep | None:
        """Decide what the next step computes; None when there is nothing to compute."""
        if self._scheduler.may_start_waiting:
            self._submissions.revoke()
        step = self._submissions.first
        if step is None:
            if not self._groups:
                return None
            step = self._scheduler.schedule(time.monotonic_ns())
            if not step.sequences:
                raise AssertionError("there are unfinished sequences and none of them can be scheduled")
        self._step_under_way = True
        self.heartbeat.begin(step.stats.iteration, len(step.sequences), step.stats.tokens)
        return step

    def execute(self, step: ScheduledStep, lock: AbstractContextManager[Any] | None = None) -> StepOutput:
        """Compute a step, and begin the next where that can be, under `lock`. Errors of the executor are passed on."""
        offload, began = self._blocks.offload, time.perf_counter()
        try:
            output = self._submissions.compute(step, lambda: self._schedule_ahead(step, lock))
        except BaseException:
            self._failed = True
            raise
        if offload is not None:
            seconds = time.perf_counter() - began
            offload.costs.computed(step.stats.context_tokens, step.batch.num_tokens, seconds)
        return output

    def _schedule_ahead(self, step: ScheduledStep, lock: AbstractContextManager[Any] | None) -> ScheduledStep | None:
        with lock or nullcontext():
            return self._scheduler.schedule_ahead(step)

    def publish(self, step: ScheduledStep | None, output: StepOutput | None) -> list[TokenDelta]:
        """The deltas of the step that `schedule` returned, and of what was cancelled since the last one."""
        deltas, self._unpublished = self._unpublished, []
        self._step_under_way = False
        if step is not None and output is not None:
            self._submissions.drop_first()
            self._publish(step, output, deltas)
            self.heartbeat.end()
        ending, self._ending = self._ending, []
        for sequence in ending:
            if sequence.status is not Status.FINISHED:
                self._finish(sequence)
                deltas.append(final_delta(sequence, "cancelled"))
        if not self._groups:
            self._submissions.revoke()
            self.check_integrity()
        return deltas

    def abort(self, reason: FinishReason, error: str | None = None) -> list[TokenDelta]:
        """End every unfinished sequence and return their final deltas."""
        deltas, self._unpublished = self._unpublished, []
        self._step_under_way, self._ending = False, []
        self._submissions.drop_all()
        for group in list(self._groups.values()):
            for sequence in group.sequences:
                if sequence.status is not Status.FINISHED:
                    self._finish(sequence)
                    deltas.append(final_delta(sequence, reason, error))
        return deltas

    def has_unfinished(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._groups or self._unpublished or self._submissions.first)

    def stats(self) -> CoreStats:
        pool, scheduler = self._blocks.pool, self._scheduler
        return CoreStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            held=scheduler.num_held,
            free_blocks=pool.num_free,
            cached_blocks=pool.num_cached,
            used_blocks=pool.num_used,
            total_blocks=pool.num_blocks,
            tokens_per_block=self._blocks.tokens_per_block,
            max_batch_size=scheduler.max_running,
            preemptions=scheduler.preemptions,
            prefix_query_tokens=self._blocks.prefix_query_tokens,
            prefix_hit_tokens=self._blocks.prefix_hit_tokens,
            iterations=self._last_iteration.iteration,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            last_iteration=self._last_iteration,
            offload_hit_tokens=self._blocks.offload_hit_tokens,
            offload=None if self._blocks.offload is None else self._blocks.offload.counts,
        )

    def check_integrity(self) -> None:
        """Raises AssertionError when, with nothing unfinished, free + cached blocks are not the whole pool."""
        if self._groups:
            return
        pool, scheduler = self._blocks.pool, self._scheduler
        leftovers = len(scheduler.running) + len(scheduler.waiting) + scheduler.num_held + self._blocks.promised
        if pool.num_free + pool.num_cached != pool.num_blocks or leftovers:
            raise AssertionError(
                f"idle, but {pool.num_free} free + {pool.num_cached} cached blocks are not {pool.num_blocks}, or"
                f" {leftovers} sequences or promised blocks are left"
            )

    def close(self) -> None:
        """Close the executor, and before that keep what the prefix cache has, if there is a place and no step failed.
        Calling it twice is harmless."""
        self._submissions.drop_all()
        if self._blocks.offload is not None:
            self._blocks.offload.close(() if self._failed else self._blocks.cached())
        self._executor.close()

    def _publish(self, step: ScheduledStep, output: StepOutput, deltas: list[TokenDelta]) -> None:
        now_ns = time.monotonic_ns()
        self._last_iteration = step.stats
        self._prompt_tokens += step.stats.context_tokens
        self._scheduler.advance(step)
        scored, may_have_ended = output.scored, step.ahead
        for place, (sequence, token_id) in enumerate(zip(step.sequences, output.token_ids, strict=True)):
            if may_have_ended and sequence.status is Status.FINISHED:
                continue
            delta = receive(sequence, token_id, scored.get(place), now_ns)
            if delta is None:
                continue
            self._output_tokens += len(delta.token_ids)
            if delta.finish_reason is not None:
                self._finish(sequence)
            deltas.append(delta)

    def _finish(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        group = sequence.group
        group.unfinished -= 1
        if group.unfinished == 0:
            del self._groups[group.request.request_id]

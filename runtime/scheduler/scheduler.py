"""Decides which tokens are computed next: continuous batching with chunked prefill and preemption.

`schedule` returns a value; nothing here depends on an engine, a model or text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from inflight.engine_format.manifest import Limits
from inflight.errors import OverloadedError
from inflight.runtime.engine.stats import IterationStats
from inflight.runtime.kv_cache.block_tables import KvBlocks
from inflight.runtime.scheduler.admission import ADMISSION, Policy, Waiting
from inflight.runtime.scheduler.batch_limits import check_ever_queued, limited
from inflight.runtime.scheduler.scheduled_step import ScheduledStep
from inflight.runtime.scheduler.sequence import Sequence, SequenceGroup, Status
from inflight.runtime.scheduler.sequence_queue import SequenceQueue
from inflight.runtime.scheduler.step import StepBatch
from inflight.runtime.scheduler.step_ahead import scheduled_ahead, sequences_ahead, take_blocks
from inflight.runtime.scheduler.step_budget import StepBudget, scheduled_chunk, scheduled_decode
from inflight.runtime.structured.masks import mask_rows


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """How to schedule. The policy's name is taken in any case; a limit that is None is the engine's own.

    max_queue_size: the most sequences that may wait for a place in the batch; 0: any number. waiting: how many must
    wait before some start beside those that run; None: any number.
    Raises ValueError for a policy that does not exist, a limit below 1, a queue size below 0 and a `waiting` below 0.
    """

    policy: Policy = "guaranteed_no_evict"
    enable_prefix_caching: bool = True
    max_num_tokens: int | None = None
    max_batch_size: int | None = None
    max_queue_size: int = 0
    waiting: Waiting | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", self.policy.lower())
        if self.policy not in ADMISSION:
            raise ValueError(f"There is no policy {self.policy!r}; choose one of {', '.join(ADMISSION)}.")
        for name in ("max_num_tokens", "max_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if self.max_queue_size < 0:
            raise ValueError(f"max_queue_size is {self.max_queue_size}; it must be 0 (any number) or more.")
        if self.waiting is not None and not min(self.waiting) >= 0:
            raise ValueError(f"waiting is {self.waiting}; its numbers must be 0 or more.")


class Scheduler:
    """Two queues, one order (priority, then arrival).

    No more sequences run than a step has tokens and logit rows, so each running one can decode in every step, however
    long the prompts beside it. A waiting sequence is never passed by a later one. Raises EngineError when the
    configuration asks for more than the engine's limits.
    """

    def __init__(self, limits: Limits, blocks: KvBlocks, config: SchedulerConfig) -> None:
        self._blocks = blocks
        self._policy = config.policy
        self._max_tokens = limited("max_num_tokens", config.max_num_tokens, limits.max_num_tokens)
        self._max_rows = limits.max_logit_rows
        batch_size = limited("max_batch_size", config.max_batch_size, limits.max_batch_size)
        self.max_running = min(batch_size, self._max_tokens, self._max_rows)
        self._free_slots = list(range(self.max_running - 1, -1, -1))
        self._iteration = 0
        self._cache_is_full = False
        # Whether a sequence has left since the last step that was not ahead: then another may start.
        self._has_room = True
        self._max_queue_size = config.max_queue_size
        self._waiting = config.waiting
        self._steps_without_start = 0
        self.running = SequenceQueue()
        self.waiting = SequenceQueue()
        self.num_held = 0
        self.preemptions = 0

    def add_group(self, group: SequenceGroup) -> None:
        """Queue a request's sequences. When their prompt has full blocks, one computes it and the others wait."""
        shared = self._blocks.cacheable_blocks(len(group.request.prompt_token_ids)) > 0
        self.waiting.add(group.sequences[0])
        for sequence in group.sequences[1:]:
            if shared:
                sequence.status = Status.HELD
                group.held.append(sequence)
                self.num_held += 1
            else:
                self.waiting.add(sequence)

    def check_queue(self, count: int) -> None:
        """Raises OverloadedError when `count` more sequences do not fit into the queue, RequestError when they never
        will.

        The batch fills first: its free slots count as part of the queue, until a step has no blocks for the sequence
        that is to be admitted next.
        """
        size = self._max_queue_size
        if size == 0:
            return
        check_ever_queued(count, self.max_running, size)
        free_slots = 0 if self._cache_is_full and self.running else self.max_running - len(self.running)
        if len(self.waiting) + self.num_held + count > size + free_slots:
            raise OverloadedError(
                f"Exceeds maximum queue size: Maximum queue size of {size} has been reached, please try again later."
            )

    def schedule(self, now_ns: int) -> ScheduledStep:
        """The next step; empty when there is nothing to do."""
        self._iteration += 1
        budget = StepBudget(self._max_tokens, self._max_rows)
        decodes, chunks = self._plan_running(budget)
        preempted = self._reserve_blocks()
        # What a preemption freed is for the sequences that ran short, in this step and the next ones.
        self._cache_is_full = self._cache_is_full or preempted > 0
        admitted = self._admit_waiting(budget, now_ns) if preempted == 0 and self._may_start() else []
        self._steps_without_start = 0 if admitted else self._steps_without_start + 1
        self._has_room = False
        decodes = [sequence for sequence in decodes if sequence.planned]
        chunks = [sequence for sequence in chunks if sequence.planned] + admitted
        sequences = decodes + chunks
        context = [sequence for sequence in chunks if sequence.num_computed < sequence.prompt_length]
        stats = IterationStats(
            iteration=self._iteration,
            generation_sequences=len(sequences) - len(context),
            context_sequences=len(context),
            context_tokens=sum(sequence.planned for sequence in context),
            admitted=len(admitted),
            preempted=preempted,
        )
        records = [*map(scheduled_decode, decodes), *map(scheduled_chunk, chunks)]
        masked = [
            (record, each.grammar)
            for record, each in zip(records, sequences, strict=True)
            if each.grammar is not None and record.sample_last
        ]
        return ScheduledStep(StepBatch(records, partial(mask_rows, masked) if masked else None), sequences, stats)

    def schedule_ahead(self, step: ScheduledStep) -> ScheduledStep | None:
        """The step behind `step`, which is under way: a token more of each of its sequences; one that ends there gets
        another, which is dropped. None where more than the tokens themselves depends on what `step` chooses: a grammar
        or bans; a prompt goes on, one that waits may start, or blocks would take a preemption."""
        if self.may_start_waiting:
            return None
        going = sequences_ahead(step, len(self.running))
        if not going or not take_blocks(going, self._blocks):
            return None
        self._iteration += 1
        batch = StepBatch([scheduled_ahead(sequence, place) for place, sequence in going])
        stats = IterationStats(iteration=self._iteration, generation_sequences=len(going))
        return ScheduledStep(batch, [sequence for _, sequence in going], stats, ahead=True)

    @property
    def may_start_waiting(self) -> bool:
        """Whether the next step may start one that waits: the last one that tried left none out for want of room."""
        if not self.waiting:
            return False
        return self._has_room or not (self._cache_is_full or len(self.running) == self.max_running)

    def advance(self, step: ScheduledStep) -> None:
        """The tokens of a step are in the cache now."""
        for sequence in step.sequences:
            if not step.ahead:
                sequence.num_computed += sequence.planned
                sequence.planned = 0
            elif sequence.status is Status.RUNNING:
                sequence.num_computed += 1
            else:  # it has ended since the step was scheduled
                continue
            if sequence.num_computed >= sequence.next_full:
                self._blocks.publish(sequence)
            if sequence.group.held:
                self._queue_siblings(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a finished or cancelled sequence; its blocks are free at once."""
        group = sequence.group
        if sequence.status is Status.HELD:
            group.held.remove(sequence)
            self.num_held -= 1
        else:
            if sequence.status is Status.RUNNING:
                self._stop_running(sequence)
            else:
                self.waiting.remove(sequence)
            # The sequence that was to compute the shared prompt is gone: the next one does it.
            self._queue_held(group, min(1, len(group.held)))
        sequence.status = Status.FINISHED

    def _queue_siblings(self, sequence: Sequence) -> None:
        """Queue those that waited for `sequence` to compute the prompt they share, if it has."""
        shared = self._blocks.cacheable_blocks(sequence.prompt_length) * self._blocks.tokens_per_block
        if sequence.num_computed >= shared:
            self._blocks.show_tail(sequence)
            self._queue_held(sequence.group, len(sequence.group.held))

    def _queue_held(self, group: SequenceGroup, count: int) -> None:
        for sequence in group.held[:count]:
            sequence.status = Status.WAITING
            self.waiting.add(sequence)
        del group.held[:count]
        self.num_held -= count

    def _plan_running(self, budget: StepBudget) -> tuple[list[Sequence], list[Sequence]]:
        """Set `planned` of every running sequence: one token for those that have one left, then chunks in order."""
        decodes: list[Sequence] = []
        chunks: list[Sequence] = []
        for sequence in self.running:
            if len(sequence.token_ids) - sequence.num_computed == 1:
                sequence.planned = 1
                decodes.append(sequence)
            else:
                chunks.append(sequence)
        budget.take_decodes(len(decodes))
        for sequence in chunks:
            sequence.planned = budget.take_chunk(sequence, sequence.num_computed)
        return decodes, chunks

    def _reserve_blocks(self) -> int:
        """Give every planned sequence its blocks, in order; return the number of sequences preempted for that.

        The first sequence can take blocks from all others and fits the pool alone, so it always progresses.
        """
        before, size = self.preemptions, self._blocks.tokens_per_block
        short = [each for each in self.running if each.num_computed + each.planned > len(each.blocks) * size]
        for sequence in short:
            if sequence.status is not Status.RUNNING:
                continue
            missing = self._blocks.missing(sequence, sequence.num_computed + sequence.planned)
            while not self._blocks.pool.can_allocate(missing) and self.running.last is not sequence:
                self._preempt(self.running.last)
            missing = min(missing, self._blocks.pool.num_available)
            self._blocks.extend(sequence, missing)
            room = len(sequence.blocks) * self._blocks.tokens_per_block - sequence.num_computed
            if room < sequence.planned:
                sequence.planned, self._cache_is_full = room, True
        return self.preemptions - before

    def _preempt(self, sequence: Sequence) -> None:
        """Preempt: release the blocks; the sequence keeps its tokens and recomputes them when it is admitted again."""
        if self._policy == "guaranteed_no_evict":
            raise AssertionError("guaranteed_no_evict admitted more than the pool holds")
        self._stop_running(sequence)
        sequence.status = Status.PREEMPTED
        sequence.preemptions += 1
        self.preemptions += 1
        self.waiting.add(sequence)

    def _stop_running(self, sequence: Sequence) -> None:
        self._has_room = True
        self.running.remove(sequence)
        self._blocks.release(sequence)
        self._free_slots.append(sequence.slot)
        sequence.planned = 0
        sequence.decode = sequence.next_ahead = sequence.last_ahead = None

    def _may_start(self) -> bool:
        """Whether enough wait. One that ran before and was preempted waits for nobody."""
        rule, running = self._waiting, len(self.running)
        if rule is None or not self.waiting or self.waiting.first.status is Status.PREEMPTED:
            return True
        return rule.enough(len(self.waiting), running, self.max_running - running, self._steps_without_start + 1)

    def _admit_waiting(self, budget: StepBudget, now_ns: int) -> list[Sequence]:
        """Start waiting sequences in order until the first that does not fit."""
        admitted: list[Sequence] = []
        while self.waiting and budget.tokens > 0 and len(self.running) < self.max_running:
            sequence = self.waiting.first
            shared, size = self._blocks.find_prefix(sequence), self._blocks.tokens_per_block
            admits = ADMISSION[self._policy]
            # Only for one that can start at all: others would have them read, and evicted, in every step.
            if self._blocks.offload is not None and admits(self._blocks, sequence, shared, len(shared) * size + 1):
                shared = self._blocks.restore(sequence, shared)
            prefix = self._blocks.find_tail(sequence, shared)
            known = len(shared) * size + prefix.tail_tokens
            chunk = budget.take_chunk(sequence, known)
            if chunk == 0:
                break
            self._cache_is_full = not admits(self._blocks, sequence, shared, known + chunk)
            if self._cache_is_full:
                break
            self.waiting.remove(sequence)
            self._blocks.start(sequence, prefix, chunk)
            sequence.status = Status.RUNNING
            sequence.slot = self._free_slots.pop()
            sequence.planned = chunk
            sequence.first_scheduled_ns = sequence.first_scheduled_ns or now_ns
            self.running.add(sequence)
            admitted.append(sequence)
        self._cache_is_full = self._cache_is_full and len(self.waiting) > 0
        return admitted

"""The step behind one that is under way, scheduled before anybody knows what that one chooses."""

from __future__ import annotations

from inflight.runtime.kv_cache.block_tables import KvBlocks
from inflight.runtime.scheduler.scheduled_step import ScheduledStep
from inflight.runtime.scheduler.sequence import Sequence, Status
from inflight.runtime.scheduler.step import ScheduledSequence


def sequences_ahead(step: ScheduledStep, running: int) -> list[tuple[int, Sequence]] | None:
    """The sequences of `step` that go on behind it, with their places in it; those that have their last token then do
    not. None where they cannot: one of the `running` sequences is not in the step, or bans or a grammar depend on what
    is chosen."""
    still = [(place, each) for place, each in enumerate(step.sequences) if each.status is Status.RUNNING]
    if len(still) < running or not all(step.batch.unmasked[place].sample_last for place, _ in still):
        return None
    if not all(sequence.goes_ahead for _, sequence in still):
        return None
    return [(place, each) for place, each in still if len(each.token_ids) < each.max_computed]


def take_blocks(sequences: list[Sequence], blocks: KvBlocks) -> bool:
    """Give each the room for one token more, or, where there is too little, none any."""
    missing = [max(0, blocks.missing(each, len(each.token_ids) + 1)) for each in sequences]
    if not blocks.pool.can_allocate(sum(missing)):
        return False
    for sequence, count in zip(sequences, missing, strict=True):
        blocks.extend(sequence, count)
    return True


def scheduled_ahead(sequence: Sequence, place: int) -> ScheduledSequence:
    """The token that the step under way chooses for `sequence`, which has that place in it. A new record: those of that
    step are in use."""
    return ScheduledSequence(
        sequence.slot,
        (0,),
        len(sequence.token_ids),
        sequence.blocks,
        sequence.sampling,
        sample_last=True,
        prompt_length=sequence.prompt_length,
        history=sequence.token_ids if sequence.sampling.needs_history else (),
        follows=place,
    )

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
    going: list[tuple[int, Sequence]] = []
    still = 0
    for place, (sequence, record) in enumerate(zip(step.sequences, step.batch.unmasked, strict=True)):
        if sequence.status is not Status.RUNNING:
            continue
        if not (record.sample_last and sequence.goes_ahead):
            return None
        still += 1
        if len(sequence.token_ids) < sequence.max_computed:
            going.append((place, sequence))
    return going if still == running else None


def take_blocks(going: list[tuple[int, Sequence]], blocks: KvBlocks) -> bool:
    """Give each the room for one token more, or, where there is too little, none any."""
    size = blocks.tokens_per_block
    short = [sequence for _, sequence in going if len(sequence.token_ids) >= len(sequence.blocks) * size]
    missing = [blocks.missing(each, len(each.token_ids) + 1) for each in short]
    if not blocks.pool.can_allocate(sum(missing)):
        return False
    for sequence, count in zip(short, missing, strict=True):
        blocks.extend(sequence, count)
    return True


def scheduled_ahead(sequence: Sequence, place: int) -> ScheduledSequence:
    """The token that the step under way chooses for `sequence`, which has that place in it: the record of the last step
    but one, brought up to date. Those of the last one are in use."""
    record = sequence.next_ahead
    if record is None:
        record = ScheduledSequence(
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
    else:
        record.start = len(sequence.token_ids)
        record.follows = place
    sequence.next_ahead, sequence.last_ahead = sequence.last_ahead, record
    return record

"""How much of a sequence fits into a step: tokens and logit rows."""

from __future__ import annotations

from inflight.runtime.scheduler.sequence import Sequence
from inflight.runtime.scheduler.step import ScheduledSequence


class StepBudget:
    """The tokens and logit rows left in one step."""

    __slots__ = ("rows", "tokens")

    def __init__(self, tokens: int, rows: int) -> None:
        self.tokens = tokens
        self.rows = rows

    def take_decodes(self, count: int) -> None:
        self.tokens -= count
        self.rows -= count

    def take_chunk(self, sequence: Sequence, num_computed: int) -> int:
        """Take the next chunk of a sequence whose first `num_computed` tokens are in the cache, and return its length.

        0 when nothing fits. A chunk that scores the prompt has a logit row per token; another one has a row when it
        reaches the last token. Tokens before those that are to be scored, and those whose scores a preemption left
        behind, are computed without rows, in a chunk of their own.
        """
        pending = len(sequence.token_ids) - num_computed
        count = min(pending, self.tokens)
        rows = 0
        if sequence.scores_prompt:
            unscored_from = sequence.next_scored
            if num_computed < unscored_from:
                count = min(count, unscored_from - num_computed)
            else:
                count = rows = min(count, self.rows)
        elif count == pending:
            rows = min(1, self.rows)
            count -= 1 - rows
        self.tokens -= count
        self.rows -= rows
        return count


def scheduled_decode(sequence: Sequence) -> ScheduledSequence:
    """The last token of `sequence`, the one that is not computed yet: last step's record, brought up to date.

    Where more than that may change from token to token, bans, masks and histories, the record is a new one.
    """
    record = sequence.decode
    if record is None:
        record = scheduled_chunk(sequence)
        if not (sequence.sampling.needs_history or sequence.group.rules.may_ban or sequence.grammar):
            sequence.decode = record
    else:
        record.token_ids = sequence.token_ids[-1:]
        record.start = sequence.num_computed
    return record


def scheduled_chunk(sequence: Sequence) -> ScheduledSequence:
    """The part that `sequence` has in the step: its `planned` next tokens.

    `block_table` and `history` are the sequence's own lists and not copies: they hold until the step's results are
    published. The mask of a structured output is put in by `mask_rows`.
    """
    token_ids = sequence.token_ids
    start = sequence.num_computed
    end = start + sequence.planned
    sample_last = sequence.reaches_last_token
    sampling = sequence.sampling
    banned = sequence.group.rules.banned(token_ids, len(token_ids) - sequence.prompt_length) if sample_last else ()
    targets: list[int] = []
    if sequence.scores_prompt and start == sequence.next_scored:
        targets = token_ids[start + 1 : min(end + 1, sequence.prompt_length)]
    return ScheduledSequence(
        sequence.slot,
        token_ids[start:end],
        start,
        sequence.blocks,
        sampling if sample_last else None,
        sample_last,
        sequence.prompt_length,
        token_ids if sample_last and sampling.needs_history else (),
        banned,
        targets,
        sequence.group.request.params.prompt_logprobs or 0 if targets else -1,
    )

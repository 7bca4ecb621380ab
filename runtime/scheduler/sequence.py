"""The state of a request and of its sequences while they are in the core."""

from __future__ import annotations

from enum import Enum

from inflight.runtime.request.request import Request
from inflight.runtime.sampling.rules import StopRules
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, TokenResult
from inflight.runtime.structured.grammar import Grammar


class Status(Enum):
    """HELD waits for a sibling to compute their prompt; PREEMPTED waits as WAITING does, but is to compute again."""

    HELD = "held"
    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


class SequenceGroup:
    """A request and its sequences. `held` are those not yet in the scheduler's queue, lowest index first."""

    __slots__ = ("arrival_ns", "held", "request", "rules", "sequences", "unfinished")

    def __init__(self, request: Request, rules: StopRules, arrival_ns: int) -> None:
        self.request = request
        self.rules = rules
        self.arrival_ns = arrival_ns
        self.sequences: list[Sequence] = []
        self.held: list[Sequence] = []
        self.unfinished = 0

    def enter(self, place: tuple[int, int]) -> None:
        """Its sequences are queued, behind those of their priority and a smaller place (arrival, number in it)."""
        arrival, number = place
        for sequence in self.sequences:
            sequence.order = (self.request.priority, arrival, number + sequence.index)
        self.unfinished = len(self.sequences)


class Sequence:
    """One completion while it is generated.

    `token_ids` are prompt and output, and only grow; the KV cache holds the first `num_computed` of them in `blocks`.
    What is left, at least one token, is computed next, and after the last of them a token is chosen.
    `keys` names full blocks (the hash chain of the prefix cache); the first `num_published` blocks are known by theirs,
    and with `next_full` computed tokens another one is full. `decode` is the record of its last decode, while it runs;
    `last_ahead` and `next_ahead` are those of its last two that were scheduled ahead, the later one first.
    `prompt_results` are the log probabilities of prompt tokens `scored_from` + 1, + 2, ... of the `num_scored_prompt`
    that are wanted.
    `grammar` is where its text is in the structured output that was asked for.
    `order` sorts sequences: sooner is smaller, and no two are equal.
    """

    __slots__ = (
        "blocks",
        "cached_tokens",
        "decode",
        "first_scheduled_ns",
        "first_token_ns",
        "grammar",
        "group",
        "index",
        "keys",
        "last_ahead",
        "last_token_ns",
        "max_computed",
        "new_blocks",
        "next_ahead",
        "next_full",
        "num_computed",
        "num_published",
        "num_scored_prompt",
        "order",
        "planned",
        "preemptions",
        "prompt_length",
        "prompt_results",
        "reused_blocks",
        "sampling",
        "scored_from",
        "slot",
        "status",
        "token_ids",
    )

    def __init__(self, group: SequenceGroup, index: int, sampling: RowSampling, max_output_tokens: int) -> None:
        prompt = group.request.prompt_token_ids
        self.group = group
        self.index = index
        self.sampling = sampling
        self.prompt_length = len(prompt)
        self.token_ids = list(prompt)
        params = group.request.params
        # The row of a token scores the one behind it; the first token of a prompt has no probability.
        self.scored_from = max(params.prompt_logprobs_start - 1, 0)
        scores = index == 0 and params.prompt_logprobs is not None
        self.num_scored_prompt = max(len(prompt) - 1 - self.scored_from, 0) if scores else 0
        self.prompt_results: list[TokenResult] = []
        # The last token of the output is never computed.
        self.max_computed = len(prompt) + max_output_tokens - 1
        self.order: tuple[int, int, int] = (group.request.priority, 0, index)
        self.status = Status.WAITING
        self.slot = -1
        self.planned = 0
        self.num_computed = 0
        self.blocks: list[int] = []
        self.keys: list[bytes] = []
        self.num_published = self.next_full = 0
        self.decode: ScheduledSequence | None = None
        self.last_ahead: ScheduledSequence | None = None
        self.next_ahead: ScheduledSequence | None = None
        self.grammar: Grammar | None = None
        self.first_scheduled_ns = self.first_token_ns = self.last_token_ns = 0
        self.cached_tokens = self.new_blocks = self.reused_blocks = self.preemptions = 0

    @property
    def num_outputs(self) -> int:
        return len(self.token_ids) - self.prompt_length

    @property
    def reaches_last_token(self) -> bool:
        """Whether the planned tokens are all that is left, so that a token is chosen after them."""
        return self.num_computed + self.planned == len(self.token_ids)

    @property
    def goes_ahead(self) -> bool:
        """Whether nothing of its next step but the token itself, and how often it came, depends on what is chosen
        now."""
        return not (self.group.rules.may_ban or self.grammar)

    @property
    def scores_prompt(self) -> bool:
        """Whether log probabilities of prompt tokens are still to be computed."""
        return len(self.prompt_results) < self.num_scored_prompt

    @property
    def next_scored(self) -> int:
        """The place of the token whose row gives the next of these."""
        return self.scored_from + len(self.prompt_results)

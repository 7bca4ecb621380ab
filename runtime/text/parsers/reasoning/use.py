"""What a model that reasons first asks of its answers: how they are read, and where their structure begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.text.parsers.answer import AnswerFormat, Chain
from inflight.runtime.text.parsers.reasoning.count import ReasoningCounts
from inflight.runtime.text.parsers.reasoning.families import beginning_of
from inflight.runtime.text.parsers.reasoning.parser import Beginning, ReasoningFamily, ReasoningParser
from inflight.runtime.text.tokenizer import Tokenizer

# Tokens at the end of a prompt that hold its last markers.
_PROMPT_END = 64


@dataclass(frozen=True, slots=True)
class ReasoningUse:
    """The reasoning of the answers to one prompt. `budget`: the most tokens of it; None: any number."""

    family: ReasoningFamily
    beginning: Beginning
    budget: int | None = None

    def parser(self) -> ReasoningParser:
        """A new one, for one sequence."""
        return self.family.parser(self.beginning)

    def counts(self, tokenizer: Tokenizer) -> ReasoningCounts:
        """Those of the tokens of one request."""
        return ReasoningCounts(self.parser, tokenizer)

    def around(self, form: AnswerFormat) -> AnswerFormat:
        """Answers whose content is of `form`."""
        markers = (*self.family.markers, *form.markers)
        return replace(form, parser=lambda: Chain(self.parser(), form.parser()), markers=markers)

    def first(self, is_structured: bool, is_call: bool) -> ReasoningFirst | None:
        """What the engine has to know: nothing, unless the answer has a structure, or its reasoning a budget.
        `is_call`: it is a call of tools, and nothing else."""
        if self.beginning is Beginning.CONTENT or (self.budget is None and not is_structured):
            return None
        own = self.family.opening, self.family.closing, self.family.forced
        opening, closing, forced = (self.family.before_calls if is_call else None) or own
        return ReasoningFirst(opening if self.beginning is Beginning.OPEN else "", closing, forced, self.budget)


def reasoning_use(
    family: ReasoningFamily, prompt: Sequence[int], tokenizer: Tokenizer, begun: str | None, budget: int | None
) -> ReasoningUse:
    """The reasoning of the answers to `prompt`. `begun`: the beginning of the answer, where one is to be continued."""
    end = tokenizer.decode(prompt[-_PROMPT_END:], skip_special_tokens=False)
    return ReasoningUse(family, beginning_of(family, end, begun), budget)

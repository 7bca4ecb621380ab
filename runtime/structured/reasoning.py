"""Reasoning that comes before the text which has to conform, and how long it may become."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from inflight.errors import RequestError

_MOST_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class ReasoningFirst:
    """The text begins with reasoning, or may: what is asked of it in `structured_outputs` holds from `closing` on.

    opening: the marker with which the model may begin its reasoning, or leave it out; "": the prompt has it already,
        and the text begins within the reasoning.
    closing: the marker that ends it.
    forced: what is put in its place when the reasoning has become too long; ends with `closing`.
    budget: the most tokens of reasoning; None: any number.

    Raises RequestError for markers that are none.
    """

    opening: str
    closing: str
    forced: str
    budget: int | None = None

    def __post_init__(self) -> None:
        texts = (self.opening, self.closing, self.forced)
        budget: object = self.budget
        if not all(isinstance(text, str) and len(text) <= _MOST_CHARACTERS for text in texts):
            raise RequestError(f"The markers of reasoning must be strings of at most {_MOST_CHARACTERS} characters.")
        if not self.closing or not self.forced.endswith(self.closing):
            raise RequestError("The forced end of reasoning must end with the closing marker.")
        if budget is not None and not (type(budget) is int and budget >= 0):
            raise RequestError(f"The budget of the reasoning is {budget!r}; it must be 0 or more tokens.")

    @classmethod
    def of(cls, text: str) -> ReasoningFirst:
        """From what `text` returned. Raises RequestError."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            raise RequestError("reasoning must be JSON of opening, closing, forced and budget.") from None

    @property
    def text(self) -> str:
        """It as JSON."""
        return json.dumps(asdict(self))

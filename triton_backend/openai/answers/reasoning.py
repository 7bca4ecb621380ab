"""What a body asks of a model that reasons first."""

from __future__ import annotations

from collections.abc import Sequence

from inflight.runtime.text.parsers.reasoning.parser import ReasoningFamily
from inflight.runtime.text.parsers.reasoning.use import ReasoningUse, reasoning_use
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.chat import ChatBody


def read_reasoning(
    family: ReasoningFamily | None, body: ChatBody, prompt: Sequence[int], tokenizer: Tokenizer
) -> ReasoningUse | None:
    """The reasoning of the answers to `prompt`; None for a model that does not mark any. Raises ApiError (400) for a
    budget then."""
    budget = None if body.thinking_token_budget == -1 else body.thinking_token_budget
    if family is None:
        if budget is not None:
            message = "thinking_token_budget limits reasoning, and this model does not mark any."
            raise ApiError(400, message, param="thinking_token_budget")
        return None
    return reasoning_use(family, prompt, tokenizer, body.begun_answer(), budget)

"""What generating returns, in the shape that vLLM's users know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inflight.runtime.request.deltas import FinishReason, RequestMetrics


@dataclass(frozen=True, slots=True)
class Logprob:
    """The natural logarithm of a token's probability, its rank (from 1), and the token as text."""

    logprob: float
    rank: int
    decoded_token: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool. `arguments`: the JSON text of an object, as the model wrote it."""

    id: str
    name: str
    arguments: str

    def as_dict(self) -> dict[str, Any]:
        """In OpenAI's shape."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One completion, so far or whole.

    text_delta: what `text` gained since the previous output of a stream; all of it where there is no stream. logprobs:
    per token, the chosen token first, then the most likely ones; None unless params.logprobs is set.
    cumulative_logprob: their sum over the tokens chosen.
    finish_reason: None while it goes on, then "stop" (stop_reason: the stop string or stop token id, None for the
    model's own end token), "length", "cancelled" or "error".
    Of LLM.chat, the parts of `text`: content (None where there is none beside calls or reasoning), reasoning (None
    where there is none) and tool_calls.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    text_delta: str = ""
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """Of LLM.chat, the answer as a message in OpenAI's shape, to go on with."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The completions of one prompt. `prompt` is None when token ids were given.

    prompt_logprobs: per prompt token, None for the first and for those before params.prompt_logprobs_start; None unless
    params.prompt_logprobs is set. metrics: times and counts over all completions, when finished.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    metrics: RequestMetrics | None = None
    finished: bool = False

    @property
    def num_cached_tokens(self) -> int | None:
        """Prompt tokens that the prefix cache had, when finished."""
        return None if self.metrics is None else self.metrics.cached_tokens

    @property
    def lora_request(self) -> None:
        """No adapter is ever applied."""


def combined_metrics(metrics: Sequence[RequestMetrics]) -> RequestMetrics:
    """One request's metrics from those of its sequences: first and last times, prompt counts once, sums of the rest."""
    if len(metrics) == 1:
        return metrics[0]
    first_tokens = [each.first_token_ns for each in metrics if each.first_token_ns]
    scheduled = [each.first_scheduled_ns for each in metrics if each.first_scheduled_ns]
    return RequestMetrics(
        arrival_ns=min(each.arrival_ns for each in metrics),
        first_scheduled_ns=min(scheduled, default=0),
        first_token_ns=min(first_tokens, default=0),
        last_token_ns=max(each.last_token_ns for each in metrics),
        prompt_tokens=metrics[0].prompt_tokens,
        cached_tokens=metrics[0].cached_tokens,
        output_tokens=sum(each.output_tokens for each in metrics),
        kv_blocks_total=sum(each.kv_blocks_total for each in metrics),
        kv_blocks_new=sum(each.kv_blocks_new for each in metrics),
        kv_blocks_reused=sum(each.kv_blocks_reused for each in metrics),
        preemptions=sum(each.preemptions for each in metrics),
    )

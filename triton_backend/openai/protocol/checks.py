"""Parameters that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence

from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.chat import ChatBody, Conversation
from inflight.triton_backend.openai.protocol.completion import CompletionBody
from inflight.triton_backend.openai.protocol.generation import GenerationBody
from inflight.triton_backend.openai.protocol.messages import Message


def check_chat(body: ChatBody) -> None:
    """Raises ApiError (400)."""
    _check_generation(body)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
    check_conversation(body)


def check_conversation(body: Conversation) -> None:
    """Raises ApiError (400)."""
    _check_results(body.messages)
    if body.continue_final_message and body.add_generation_prompt:
        message = "continue_final_message goes on with the last message, add_generation_prompt begins another."
        raise ApiError(400, message, param="continue_final_message")


def _check_results(messages: Sequence[Message]) -> None:
    """Raises ApiError (400) for the result of a tool that nobody called. A result without an id answers a call that has
    none, or the only one that waits."""
    waiting: list[str | None] = []
    called: set[str | None] = set()
    for index, message in enumerate(messages):
        for call in message.tool_calls or ():
            waiting.append(call.id)
            called.add(call.id)
        if message.role != "tool":
            continue
        where = f"messages.{index}.tool_call_id"
        if message.tool_call_id is None:
            if not waiting:
                raise ApiError(400, f"Missing required parameter: '{where}', and no call waits for it.", param=where)
            waiting.pop(0)
        elif message.tool_call_id not in called:
            known = ", ".join(repr(each) for each in called if each is not None) or "there is none"
            what = f"'{where}': no earlier message calls a tool with the id {message.tool_call_id!r}: {known}."
            raise ApiError(400, what, param=where)
        elif message.tool_call_id in waiting:
            waiting.remove(message.tool_call_id)


def check_completion(body: CompletionBody) -> None:
    """Raises ApiError (400)."""
    _check_generation(body)
    _check_beams(body)
    if body.stream and (body.best_of or 1) > (body.n or 1):
        raise ApiError(400, "best_of above n cannot be streamed: the best is known at the end.", param="best_of")
    if body.max_tokens == 0 and not body.echo:
        message = "max_tokens is 0; it must be at least 1, unless echo gives the prompt back."
        raise ApiError(400, message, param="max_tokens")


def _check_beams(body: CompletionBody) -> None:
    if not body.use_beam_search:
        if body.length_penalty not in (None, 0, 1):
            raise ApiError(400, "length_penalty is of beam search: set use_beam_search.", param="length_penalty")
        return
    if body.stream:
        raise ApiError(400, "stream: beam search knows at its end which texts are the best.", param="stream")
    if body.best_of not in (None, body.n or 1):
        raise ApiError(400, "best_of: beam search finds the n best; set n.", param="best_of")


def _check_generation(body: GenerationBody) -> None:
    if body.stream_options is not None and body.stream_options.asks and not body.stream:
        raise ApiError(400, "stream_options is only allowed with stream: true.", param="stream_options")
    if body.truncate_prompt_tokens == 0:
        message = "truncate_prompt_tokens is 0, which leaves no prompt; -1 leaves as many tokens as there is room for."
        raise ApiError(400, message, param="truncate_prompt_tokens")
    if body.stream and body.prompt_logprobs is not None:
        raise ApiError(400, "prompt_logprobs cannot be streamed.", param="prompt_logprobs")

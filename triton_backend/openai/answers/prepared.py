"""From the body of a request to what the engine is asked, whatever dialect the body was written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inflight.errors import placed
from inflight.runtime.request.validation import total_room
from inflight.runtime.text.parsers.answer import AnswerFormat
from inflight.triton_backend.openai.answers.reasoning import read_reasoning
from inflight.triton_backend.openai.answers.tools import structure_with_tools
from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.protocol.chat import ChatBody
from inflight.triton_backend.openai.protocol.completion import CompletionBody
from inflight.triton_backend.openai.protocol.structure import read_structure
from inflight.triton_backend.openai.protocol.tools import read_tools
from inflight.triton_backend.openai.service import Generation, Service


def prepare_chat(
    service: Service, body: ChatBody, *, may_shorten: bool = False, prompt: Sequence[int] | None = None
) -> Generation:
    """Renders the chat template, so that it wants a thread (Service.rendering). `prompt`: what takes the place of the
    messages. `may_shorten`: where the context has no room for as many tokens as are asked for, the answer has those
    that there is room for.

    Raises ApiError (400) or RequestError for what cannot be asked for.
    """
    prompt = service.chat_prompt(body) if prompt is None else prompt
    use, tool_format = read_tools(body), service.tool_format
    structure = structure_with_tools(tool_format, use, read_structure(body), service.tokenizer)
    reasoning = read_reasoning(service.reasoning_family, body, prompt, service.tokenizer)
    is_call = use is not None and use.is_forced
    params = service.sampling_params(
        body,
        structured_outputs=None if structure is None else structure[1],
        reasoning=None if reasoning is None else reasoning.first(structure is not None, is_call),
        max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )
    if may_shorten and len(prompt) + (params.max_tokens or 0) > total_room(params, service.manifest.limits.max_seq_len):
        params = replace(params, max_tokens=None)
    form = AnswerFormat() if use is None else use.answer_format(tool_format)
    generation = service.generation(
        prompt,
        params,
        body,
        "messages",
        structure_param=None if structure is None else structure[0],
        form=reasoning.around(form) if reasoning is not None and body.separate_reasoning else form,
        reasoning=None if reasoning is None else reasoning.counts(service.tokenizer),
    )
    service.check_queue([generation])
    return generation


def prepare_completion(service: Service, body: CompletionBody) -> list[Generation]:
    """A generation per prompt. Raises ApiError (400) or RequestError for what cannot be asked for."""
    structure = read_structure(body)
    params = service.sampling_params(
        body,
        structured_outputs=None if structure is None else structure[1],
        max_tokens=1 if body.scores_only else body.max_tokens,
        best_of=body.best_of,
        **body.beams,
        logprobs=body.logprobs,
        prompt_logprobs=_num_prompt_logprobs(body),
    )
    prompts = body.prompts()
    if not prompts:
        raise ApiError(400, "There is no prompt.", param="prompt")
    more: dict[str, Any] = {
        "prompt_only": body.scores_only,
        "structure_param": None if structure is None else structure[0],
    }
    generations = []
    for index, each in enumerate(prompts):
        param = f"prompt.{index}" if body.is_listed() else "prompt"
        with blaming(param), placed(f"'{param}'" if body.is_listed() else None):
            ids = service.tokenizer.encode(each, body.add_special_tokens) if isinstance(each, str) else each
        generations.append(service.generation(ids, params, body, param, **more))
    service.check_queue(generations)
    return generations


def _num_prompt_logprobs(body: CompletionBody) -> int | None:
    """What is asked for by itself, and what the echo shows. A request that only scores has them in any case, so that
    its prompt may fill the context."""
    asked = [body.prompt_logprobs, body.logprobs if body.echo else None, 0 if body.scores_only else None]
    return max((number for number in asked if number is not None), default=None)

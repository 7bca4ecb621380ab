"""Shared by the endpoints: the served model, its tokenizer, and the source of tokens."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError, placed
from inflight.runtime.beam_search.requests import check_beams
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.request.validation import check_request, output_room, total_room
from inflight.runtime.sampling.params import SamplingParams, params_over_defaults
from inflight.runtime.sampling.watermark import Watermark
from inflight.runtime.scheduler.admission import Waiting
from inflight.runtime.scheduler.batch_limits import check_ever_queued, most_running
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import CompletionDelta, RequestText
from inflight.runtime.text.parsers.answer import AnswerFormat
from inflight.runtime.text.parsers.reasoning.count import ReasoningCounts
from inflight.runtime.text.parsers.reasoning.families import reasoning_family
from inflight.runtime.text.parsers.reasoning.parser import ReasoningFamily
from inflight.runtime.text.parsers.tool_format import ToolFormat
from inflight.runtime.text.parsers.tools.registry import find_tool_format, format_of_template
from inflight.runtime.text.tokenizer import MANY_CHARACTERS, Tokenizer
from inflight.runtime.text.words import with_bad_word_ids
from inflight.triton_backend.openai.backends.base import PoolingBackend, TokenBackend
from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.limits import MAX_BODY_BYTES
from inflight.triton_backend.openai.metrics import ShimMetrics
from inflight.triton_backend.openai.protocol.chat import Conversation
from inflight.triton_backend.openai.protocol.generation import SAMPLING_FIELDS, GenerationBody
from inflight.triton_backend.wire.client_names import in_words_of_client

T = TypeVar("T")


@dataclass(slots=True)
class Generation:
    """A request on its way, and what became known of it beside its text.

    `param` is the name in the body of what the engine may refuse, the prompt or the structured output; `truncated`
    says whether the prompt lost tokens. `prompt_only`: the engine generates a token, since it cannot generate none, and
    the client sees none. `form`: how the parts of its answers are told apart. `reasoning`: counts the tokens of their
    reasoning, for a model that marks it.
    """

    request: Request
    param: str
    truncated: bool = False
    prompt_only: bool = False
    prompt_logprobs: tuple[TokenResult | None, ...] | None = None
    cached_tokens: int = 0
    form: AnswerFormat = field(default_factory=AnswerFormat)
    reasoning: ReasoningCounts | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """One engine under one name. `created` is the Unix time at which serving began. Requests may name any model, since
    there is one; with `strict_model_name` only this one. `accuracy`: the facts of the engine's accuracy record.
    `tool_call_parser`, `reasoning_parser`: the names of the form in which the model calls tools, and of that in which
    it marks its reasoning; None: what its template teaches. `watermark`: that of texts of TGI's clients who ask for one
    without saying which. `waiting`: as in SchedulerConfig.
    `template_variables`: of chats that do not set them."""

    model_name: str
    manifest: EngineManifest
    tokenizer: Tokenizer
    backend: TokenBackend
    metrics: ShimMetrics
    strict_model_name: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    max_body_bytes: int = MAX_BODY_BYTES
    accuracy: Mapping[str, Any] | None = None
    max_queue_size: int = 0
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    watermark: Watermark = field(default_factory=Watermark)
    waiting: Waiting | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)

    def now(self) -> int:
        """The Unix time that answers carry."""
        return int(time.time())

    async def tokenizing(self, num_characters: int, work: Callable[[], T]) -> T:
        """The result of `work`, which tokenizes so many characters. Many are left to a thread, so that a prompt of
        megabytes does not hold up the answers of others."""
        return work() if num_characters < MANY_CHARACTERS else await self.rendering(work)

    async def rendering(self, work: Callable[[], T]) -> T:
        """The result of `work`, which runs a chat template. That is a program and may take long over few characters, so
        that it always has a thread."""
        return await asyncio.to_thread(work)

    @property
    def tool_format(self) -> ToolFormat:
        """The form in which the model calls tools."""
        if self.tool_call_parser is not None:
            return find_tool_format(self.tool_call_parser)
        template = self.tokenizer.chat_template
        return format_of_template(None if template is None else template.tool_source)

    @property
    def reasoning_family(self) -> ReasoningFamily | None:
        """How the model marks its reasoning; None: it does not."""
        template = self.tokenizer.chat_template
        return reasoning_family(self.reasoning_parser, None if template is None else template.default_source)

    @property
    def pooling(self) -> PoolingBackend:
        """The backend of an engine that pools; it has no other."""
        assert isinstance(self.backend, PoolingBackend), "an engine that pools has a backend that does"
        return self.backend

    def check_model(self, name: str | None) -> None:
        """Raises ApiError (404) for another model's name, where names are taken strictly."""
        if self.strict_model_name and name is not None:
            self.find_model(name)

    def find_model(self, name: str) -> None:
        """Raises ApiError (404) for another model's name."""
        if name != self.model_name:
            message = f"The model '{name}' does not exist; this server has '{self.model_name}'."
            raise ApiError(404, message, param="model", code="model_not_found")

    def chat_prompt(self, body: Conversation) -> list[int]:
        """The token ids of a conversation. Raises ApiError (400) when the template does not take it."""
        with blaming("messages"):
            messages = [message.as_dict() for message in body.messages]
            return self.tokenizer.encode_chat(messages, **{**self.template_variables, **body.template_options()})

    def sampling_params(self, body: GenerationBody, **more: Any) -> SamplingParams:
        """What `body` asks for, over the defaults of the model's generation_config.json.

        `more` are parameters whose names differ between the endpoints. Raises RequestError on a value out of range.
        """
        given = {row.name: value for row in SAMPLING_FIELDS if (value := getattr(body, row.name)) is not None}
        return params_over_defaults(self.manifest.generation.sampling_defaults, given | more)

    def generation(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        body: GenerationBody,
        param: str,
        *,
        prompt_only: bool = False,
        structure_param: str | None = None,
        form: AnswerFormat | None = None,
        reasoning: ReasoningCounts | None = None,
    ) -> Generation:
        """A checked request with max_tokens resolved: None becomes the rest of the context. `structure_param`: the
        field of the body that asks for structured output; what may be wrong with that when it reaches the engine is
        its schema.

        Raises ApiError (400) when the prompt is too long, with both lengths, and for anything else that can never be
        served; `param`, `prompt_only`, `form` and `reasoning` are those of Generation.
        """
        limit = self.manifest.limits.max_seq_len
        kept = _truncate(prompt, body, total_room(params, limit) - (params.max_tokens or 1))
        room = output_room(len(kept), params.max_tokens, total_room(params, limit))
        if room is None:
            is_asked = params.max_tokens is not None and not prompt_only
            asked = f" and {params.max_tokens} for the completion" if is_asked else ""
            message = (
                f"This model's maximum context length is {limit} tokens. "
                f"The request has {len(kept)} tokens in the {param}{asked}."
            )
            raise ApiError(400, message, param=param, code="context_length_exceeded")
        with blaming("bad_words"):
            params = with_bad_word_ids(self.tokenizer, replace(params, max_tokens=room))
        request = Request(
            request_id=uuid.uuid4().hex,
            prompt_token_ids=tuple(kept),
            params=params,
            end_token_ids=self.manifest.generation.end_token_ids,
            priority=body.priority,
        )
        if params.use_beam_search:
            with in_words_of_client({"beam_width": "n"}):
                check_beams(request, limit)
        with blaming(param), placed(f"'{param}'" if "." in param else None):
            # A loaded engine's cache holds at least one sequence of the full length.
            check_request(request, vocab_size=self.manifest.model.vocab_size, max_seq_len=limit, cache_tokens=limit)
        truncated = len(kept) < len(prompt)
        more: dict[str, Any] = {"form": form or AnswerFormat(), "reasoning": reasoning}
        return Generation(request, structure_param or param, truncated, prompt_only, **more)

    def check_queue(self, generations: Sequence[Generation]) -> None:
        """Raises ApiError (400) for a request of more sequences than batch and queue together ever hold: its prompts
        queue one by one, so that the engine would take the last for an overload."""
        first = generations[0].request
        several = "best_of" if first.params.best_of else "n"
        with blaming(generations[0].param.partition(".")[0] if first.num_sequences == 1 else several):
            count = sum(each.request.num_sequences for each in generations)
            check_ever_queued(count, most_running(self.manifest.limits), self.max_queue_size)

    async def run(self, generation: Generation) -> AsyncGenerator[CompletionDelta, None]:
        """The text of every sequence as it grows. Closing it early cancels the request; raises EngineError."""
        request = generation.request
        text = RequestText(self.tokenizer, request.params, generation.form.markers)
        started = time.monotonic()
        self.metrics.request_started(len(request.prompt_token_ids), request.params.max_tokens or 0)
        is_first, num_tokens = True, 0
        try:
            async with aclosing(self._deltas(generation)) as deltas:
                async for delta in deltas:
                    if is_first and delta.token_ids:
                        is_first = False
                        self.metrics.first_token(started)
                    for completion in text.push(delta):
                        _refuse_cancelled(completion)
                        self.metrics.tokens_generated(len(completion.token_ids))
                        num_tokens += len(completion.token_ids)
                        if generation.reasoning is not None:
                            is_over = completion.finish_reason is not None
                            generation.reasoning.push(completion.index, completion.token_ids, is_over)
                        if completion.cancel and not text.finished:
                            await self.backend.cancel(request.request_id, completion.index)
                        yield _hidden(completion) if generation.prompt_only else completion
                    if text.finished:
                        return
        finally:
            self.metrics.request_ended(started, num_tokens, text.finished)

    async def _deltas(self, generation: Generation) -> AsyncGenerator[TokenDelta, None]:
        """What the engine says, after noting what is about the prompt."""
        with blaming(generation.param):
            async with aclosing(self.backend.generate(generation.request)) as deltas:
                async for delta in deltas:
                    if delta.prompt_logprobs is not None:
                        generation.prompt_logprobs = delta.prompt_logprobs
                    if delta.cached_tokens is not None and delta.index == 0:
                        generation.cached_tokens = delta.cached_tokens
                    yield delta


def _truncate(prompt: Sequence[int], body: GenerationBody, room: int) -> Sequence[int]:
    """The part of `prompt` that truncate_prompt_tokens leaves: so many tokens, -1 for all that there is room for."""
    length = body.truncate_prompt_tokens
    if length is None:
        return prompt
    length = max(room, 0) if length < 0 else length
    return prompt[:length] if body.truncation_side == "right" else prompt[max(len(prompt) - length, 0) :]


def _hidden(completion: CompletionDelta) -> CompletionDelta:
    """A completion of no tokens that ends as this one does."""
    return CompletionDelta(completion.index, "", finish_reason="length" if completion.finish_reason else None)


def _refuse_cancelled(completion: CompletionDelta) -> None:
    """A sequence that somebody else cancelled is not a completion."""
    if completion.finish_reason in ("cancelled", "error"):
        raise EngineError("The engine ended this request: " + (completion.error or "the server is stopping."))

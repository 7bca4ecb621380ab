"""LLM.chat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, overload

from inflight.runtime.offline.calls import foreign_call
from inflight.runtime.offline.chat_jobs import ChatOptions, ChatReader, Job
from inflight.runtime.request.outputs import RequestOutput
from inflight.runtime.request.prompts import match_params
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.chat.chat_messages import Message, conversations
from inflight.runtime.text.tokenizer import Tokenizer

Params = SamplingParams | Sequence[SamplingParams]


class ChatMethods(ABC):
    """The part of LLM that answers conversations."""

    tokenizer: Tokenizer

    @abstractmethod
    def _params(self, given: Params | None) -> Params: ...

    @abstractmethod
    def _run(
        self, jobs: Sequence[Job], use_tqdm: bool, stream: bool, priority: int | Sequence[int] = 0
    ) -> list[RequestOutput] | Iterator[RequestOutput]: ...

    @abstractmethod
    def _generating(self) -> Any: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: Literal[False] = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        reasoning_effort: str | None = None,
        thinking_token_budget: int | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tool_call_parser: str | None = None,
        reasoning_parser: str | None = None,
        **names: Any,
    ) -> list[RequestOutput]: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: Literal[True],
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        reasoning_effort: str | None = None,
        thinking_token_budget: int | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tool_call_parser: str | None = None,
        reasoning_parser: str | None = None,
        **names: Any,
    ) -> Iterator[RequestOutput]: ...

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        reasoning_effort: str | None = None,
        thinking_token_budget: int | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tool_call_parser: str | None = None,
        reasoning_parser: str | None = None,
        **names: Any,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Answer one conversation or a list of them: `generate` on the prompts that the model's chat template makes.

        messages: dicts with a role and content. tools: functions that the model may call, in OpenAI's shape.
        tool_choice: "auto" (the default), "none", "required", or {"type": "function", "function": {"name": ...}}: the
        last two are constrained by a grammar. parallel_tool_calls: False for one call at most. reasoning_effort: a
        variable of the template; "none" sets its `enable_thinking` to false. thinking_token_budget: the most tokens of
        reasoning, -1 for any number. chat_template_kwargs: further variables.
        add_generation_prompt: False leaves out the beginning of an answer. continue_final_message: go on with the last
        message. chat_template: a Jinja template to use instead of the model's. tool_call_parser, reasoning_parser: the
        form of calls and the markers of reasoning, where the template does not say which.

        Each of `outputs` has beside its text, which shows the markers, `content`, `reasoning`, `tool_calls`, and
        `message`: these as a message, to go on with. Raises RequestError when the model has no template, the template
        does not accept the messages, or tools and choice contradict each other.
        """
        variables = dict(chat_template_kwargs or {})
        if "documents" in names:
            variables["documents"] = names.pop("documents")
        foreign_call("chat", names)
        self._generating()
        options = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            reasoning_effort=reasoning_effort,
            thinking_token_budget=thinking_token_budget,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template=chat_template,
            chat_template_kwargs=variables,
            tool_call_parser=tool_call_parser,
            reasoning_parser=reasoning_parser,
        )
        reader = ChatReader(self.tokenizer, options)
        given = conversations(messages)
        matched = match_params(self._params(sampling_params), len(given))
        jobs = [reader.job(each, params) for each, params in zip(given, matched, strict=True)]
        return self._run(jobs, use_tqdm, stream)

"""What LLM.chat asks of the engine: prompts by the chat template, and how their answers are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.request.prompts import PromptTokens
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.chat.chat_messages import Message
from inflight.runtime.text.chat.tool_use import read_tool_use
from inflight.runtime.text.parsers.answer import AnswerFormat
from inflight.runtime.text.parsers.reasoning.families import reasoning_family
from inflight.runtime.text.parsers.reasoning.use import reasoning_use
from inflight.runtime.text.parsers.tools.registry import find_tool_format, format_of_template
from inflight.runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The options of LLM.chat; see there."""

    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    thinking_token_budget: int | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None

    def variables(self) -> dict[str, Any]:
        """Of the chat template. An effort says whether to think at all, by the name that templates use for that."""
        effort = self.reasoning_effort
        said = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        return said | dict(self.chat_template_kwargs)


# A prompt, its parameters, and how its answers are told apart; None where nobody asks.
Job = tuple[PromptTokens, SamplingParams, AnswerFormat | None]


class ChatReader:
    """Makes the jobs of the conversations of one call. Raises RequestError for options that contradict each other."""

    def __init__(self, tokenizer: Tokenizer, options: ChatOptions) -> None:
        self._options = options
        if options.chat_template is not None:
            tokenizer = tokenizer.with_chat_template(options.chat_template)
        self._tokenizer = tokenizer
        self._use = read_tool_use(options.tools, options.tool_choice, options.parallel_tool_calls)
        known = tokenizer.chat_template
        name = options.tool_call_parser
        source = None if known is None else known.tool_source
        self._tool_format = format_of_template(source) if name is None else find_tool_format(name)
        self._family = reasoning_family(options.reasoning_parser, None if known is None else known.default_source)
        self._budget = None if options.thinking_token_budget == -1 else options.thinking_token_budget
        if self._budget is not None and self._family is None:
            raise RequestError("thinking_token_budget limits reasoning, and this model does not mark any.")

    def job(self, conversation: Sequence[Message], params: SamplingParams) -> Job:
        """Raises RequestError where the model's template does not take the messages."""
        options, use = self._options, self._use
        text = self._tokenizer.render_chat(
            conversation,
            tools=None if use is None else [dict(each) for each in use.chosen],
            add_generation_prompt=options.add_generation_prompt and not options.continue_final_message,
            continue_final_message=options.continue_final_message,
            adapt_tools=True,
            **options.variables(),
        )
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        form = AnswerFormat() if use is None else use.answer_format(self._tool_format)
        if use is not None:
            structure = use.structure(self._tool_format, params.structured_outputs, self._tokenizer)
            params = replace(params, structured_outputs=structure)
        if self._family is not None:
            begun = _text(conversation[-1]) if options.continue_final_message else None
            reasoning = reasoning_use(self._family, ids, self._tokenizer, begun, self._budget)
            form = reasoning.around(form)
            if params.reasoning is None:
                first = reasoning.first(params.structured_outputs is not None, use is not None and use.is_forced)
                params = replace(params, reasoning=first)
        return PromptTokens(text, tuple(ids)), params, form


def _text(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

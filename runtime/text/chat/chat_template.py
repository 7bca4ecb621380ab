"""Chat templates: programs that turn messages into a prompt, run when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.text.chat.chat_messages import (
    CONTENT_HINT,
    Message,
    check_messages,
    have_parts,
    plain_data,
    with_developer_as_system,
    with_joined_parts,
)

# What stands at the end of the message to be continued while the template runs. The space shows whether it trims.
_END = "CONTINUE_FINAL_MESSAGE_TAG "
_LIMIT_HINT = "Send a shorter conversation, or convert the model with another chat_template.jinja."
_PROBE = "PART_OF_A_MESSAGE"


class ChatTemplate:
    """The chat template of one model.

    `sources` maps names to Jinja sources. Most models have just "default"; "tool_use" is taken when tools are given.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._compiled: dict[str, Any] = {}
        self._strings_only: dict[str, bool] = {}

    @property
    def default_source(self) -> str | None:
        """The Jinja source of the default template; None for a model that has only others."""
        return self._sources.get("default")

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        documents: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt, as Tokenizer.render_chat says. Raises RequestError with the template's own words when it does
        not accept the messages."""
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "continue_final_message continues the last message, and add_generation_prompt begins another.",
                "Set add_generation_prompt to false.",
            )
        if "messages" in (variables or {}):
            raise RequestError("A variable for the chat template has the name messages, which the conversation has.")
        if documents is not None and not all(isinstance(document, Mapping) for document in documents):
            raise RequestError("documents must be a list of objects, such as {'title': ..., 'text': ...}.")
        name = "tool_use" if tools is not None and "tool_use" in self._sources else "default"
        values = {
            **plain_data(variables or {}),
            "tools": plain_data(tools),
            "documents": plain_data(documents),
            "add_generation_prompt": add_generation_prompt,
        }
        conversation = self._as_known(name, check_messages(messages), values)
        if not continue_final_message:
            return self._run(name, conversation, values)
        begun = conversation[-1].get("content")
        return _cut_at_the_end(self._run(name, _with_end(conversation), values), begun)

    def _as_known(self, name: str, messages: list[dict[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """`messages` in the roles and kinds of content that the template knows."""
        if "developer" not in self._source(name):
            messages = with_developer_as_system(messages)
        if not have_parts(messages):
            return messages
        if name not in self._strings_only:
            self._strings_only[name] = self._takes_strings_only(name, values)
        return with_joined_parts(messages) if self._strings_only[name] else messages

    def _takes_strings_only(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the template shows content that is a string, and of a list nothing or its source text."""
        part = {"type": "text", "text": _PROBE}
        as_string, as_parts = (self._shown(name, content, values) for content in (_PROBE, [part]))
        is_source_text = any(as_parts.count(text) > as_string.count(text) for text in ("'type': ", '"type": '))
        return _PROBE in as_string and (_PROBE not in as_parts or is_source_text)

    def _shown(self, name: str, content: Any, values: Mapping[str, Any]) -> str:
        try:
            return self._run(name, [{"role": "user", "content": content}], values)
        except RequestError:
            return ""

    def _run(self, name: str, messages: list[dict[str, Any]], values: Mapping[str, Any]) -> str:
        from inflight.runtime.text.chat.jinja_environment import render
        from inflight.runtime.text.chat.template_limits import TooMuch

        template = self._template(name)
        try:
            return render(template, {**values, "messages": messages})
        except (TooMuch, RecursionError, MemoryError) as error:
            reason = str(error) if isinstance(error, TooMuch) else "it calls itself too deeply or makes too much."
            raise RequestError(f"The model's chat template was stopped: {reason}", _LIMIT_HINT) from None
        except Exception as error:  # a template is a program and may fail in any way
            raise RequestError(
                f"The model's chat template does not accept these messages: {error}",
                "Check the roles and their order; many models want user and assistant to alternate.",
            ) from error

    def _source(self, name: str) -> str:
        if name not in self._sources:
            raise RequestError(f"The model has chat templates named {sorted(self._sources)}, but no default one.")
        return self._sources[name]

    def _template(self, name: str) -> Any:
        if name not in self._compiled:
            from inflight.runtime.text.chat.jinja_environment import TemplateError, compile_template

            try:
                self._compiled[name] = compile_template(self._source(name))
            except (TemplateError, RecursionError, MemoryError, SyntaxError) as error:
                raise RequestError(f"The model's chat template cannot be read: {error}") from error
        return self._compiled[name]


def _with_end(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`messages` with _END behind the text of the last one, or behind its last part of text."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        return [*messages[:-1], {**messages[-1], "content": content + _END}]
    parts = list(content) if isinstance(content, list) else []
    for index in reversed(range(len(parts))):
        if isinstance(parts[index], dict) and isinstance(parts[index].get("text"), str):
            parts[index] = {**parts[index], "text": parts[index]["text"] + _END}
            return [*messages[:-1], {**messages[-1], "content": parts}]
    raise RequestError("The last message has no text that could be continued.", CONTENT_HINT)


def _cut_at_the_end(prompt: str, begun: Any) -> str:
    """`prompt` up to where the last message, `begun`, ends; without the spaces there if the template trims them."""
    texts = [begun] if isinstance(begun, str) else [part["text"] for part in begun if "text" in part]
    end = prompt.rfind(_END.strip())
    if end < 0 or texts[-1].strip() not in prompt:
        raise RequestError("The model's chat template does not show the last message, so it cannot be continued.")
    return prompt[:end] if prompt.startswith(_END, end) else prompt[:end].rstrip()

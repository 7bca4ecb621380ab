"""Chat templates: programs that turn messages into a prompt, run when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from inflight.runtime.text.chat.tool_messages import (
    speaks_of_tools,
    with_argument_text,
    with_arguments,
    with_calls_as_text,
    with_introduction,
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
        self._reads_tools: dict[str, bool] = {}
        self._argument_text: dict[str, bool] = {}

    def check(self) -> None:
        """Raises RequestError for a template that cannot be read."""
        for name in self._sources:
            self._template(name)

    @property
    def default_source(self) -> str | None:
        """The Jinja source of the default template; None for a model that has only others."""
        return self._sources.get("default")

    @property
    def tool_source(self) -> str | None:
        """The Jinja source of the template that is taken when tools are given; None where it does not read them, or
        cannot be read itself."""
        name = self._name(True)
        try:
            return self._source(name) if self._knows_tools(name) else None
        except RequestError:
            return None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        documents: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        adapt_tools: bool = False,
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
        name = self._name(tools is not None)
        values = {
            **plain_data(variables or {}),
            "tools": plain_data(tools),
            "documents": plain_data(documents),
            "add_generation_prompt": add_generation_prompt,
        }
        conversation = self._as_known(name, check_messages(messages), values, adapt_tools)
        if not continue_final_message:
            return self._run(name, conversation, values)
        begun = conversation[-1].get("content")
        return _cut_at_the_end(self._run(name, _with_end(conversation), values), begun)

    def _name(self, has_tools: bool) -> str:
        return "tool_use" if has_tools and "tool_use" in self._sources else "default"

    def _as_known(
        self, name: str, messages: list[dict[str, Any]], values: Mapping[str, Any], adapt_tools: bool
    ) -> list[dict[str, Any]]:
        """`messages` in the roles and kinds of content that the template knows."""
        if "developer" not in self._source(name):
            messages = with_developer_as_system(messages)
        if adapt_tools and (values["tools"] or speaks_of_tools(messages)):
            messages = self._with_known_tools(name, with_arguments(messages), values)
        if not have_parts(messages):
            return messages
        takes_strings = _found(self._strings_only, name, lambda: self._takes_strings_only(name, values))
        return with_joined_parts(messages) if takes_strings else messages

    def _with_known_tools(
        self, name: str, messages: list[dict[str, Any]], values: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """`messages` with tools and calls in a form that the template knows: its own, or as text."""
        if not self._knows_tools(name):
            messages = with_calls_as_text(with_joined_parts(messages))
            if not values["tools"]:
                return messages
            system = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}]
            return with_introduction(messages, values["tools"], _PROBE in self._tried(name, system, values))
        if any(message.get("tool_calls") for message in messages):
            takes_text = _found(self._argument_text, name, lambda: self._takes_argument_text(name, values))
            return with_argument_text(messages) if takes_text else messages
        return messages

    def _knows_tools(self, name: str) -> bool:
        """Whether the template reads the variable `tools`."""
        if name not in self._reads_tools:
            self._template(name)
            from inflight.runtime.text.chat.jinja_environment import variables_of

            self._reads_tools[name] = "tools" in variables_of(self._source(name))
        return self._reads_tools[name]

    def _takes_argument_text(self, name: str, values: Mapping[str, Any]) -> bool | None:
        """Whether the template fails on arguments that are an object, or writes them as Python does; None where it
        shows them in no form."""
        function = {"name": "probe", "arguments": {_PROBE: "1"}}
        # An id of nine characters, the only ones that some templates take.
        call = {"id": "probe0000", "type": "function", "function": function}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "probe", "tool_call_id": "probe0000", "content": "!"},
        ]
        as_object = self._tried(name, messages, values)
        as_text = self._tried(name, with_argument_text(messages), values)
        if _PROBE not in as_text + as_object:
            return None
        return _PROBE in as_text and (_PROBE not in as_object or f"{{'{_PROBE}'" in as_object)

    def _takes_strings_only(self, name: str, values: Mapping[str, Any]) -> bool | None:
        """Whether the template shows content that is a string, and of a list nothing or its source text; None where it
        shows neither."""
        part = {"type": "text", "text": _PROBE}
        as_string, as_parts = (self._shown(name, content, values) for content in (_PROBE, [part]))
        if _PROBE not in as_string + as_parts:
            return None
        is_source_text = any(as_parts.count(text) > as_string.count(text) for text in ("'type': ", '"type": '))
        return _PROBE in as_string and (_PROBE not in as_parts or is_source_text)

    def _shown(self, name: str, content: Any, values: Mapping[str, Any]) -> str:
        return self._tried(name, [{"role": "user", "content": content}], values)

    def _tried(self, name: str, messages: list[dict[str, Any]], values: Mapping[str, Any]) -> str:
        """The prompt, empty where the template does not accept the messages."""
        try:
            return self._run(name, messages, values)
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


def _found(facts: dict[str, bool], name: str, look: Callable[[], bool | None]) -> bool:
    """What `facts` has of the template `name`, or else what `look` finds, which is kept unless it is None: variables of
    one request may make a template fail, which says nothing of the next."""
    if name not in facts:
        found = look()
        if found is None:
            return False
        facts[name] = found
    return facts[name]

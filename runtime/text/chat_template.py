"""Chat templates: programs that turn messages into a prompt, run when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inflight.errors import RequestError

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, Any]


class ChatTemplate:
    """The chat template of one model.

    `sources` maps names to Jinja sources. Most models have just "default"; "tool_use" is taken when tools are given.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._compiled: dict[str, jinja2.Template] = {}

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """The prompt. Raises RequestError with the template's own words when it does not accept the messages."""
        conversation = check_messages(messages)
        template = self._template("tool_use" if tools is not None and "tool_use" in self._sources else "default")
        values = {**variables, "tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        from inflight.runtime.text.jinja_environment import TemplateError

        try:
            return template.render(messages=conversation, **values)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise RequestError(
                f"The model's chat template does not accept these messages: {error}",
                "Check the roles and their order; many models want user and assistant to alternate.",
            ) from error

    def _template(self, name: str) -> jinja2.Template:
        if name not in self._sources:
            raise RequestError(f"The model has chat templates named {sorted(self._sources)}, but no default one.")
        if name not in self._compiled:
            from inflight.runtime.text.jinja_environment import TemplateError, environment

            try:
                self._compiled[name] = environment().from_string(self._sources[name])
            except TemplateError as error:
                raise RequestError(f"The model's chat template cannot be read: {error}") from error
        return self._compiled[name]


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the templates expect them: plain dicts without the keys whose value is None (they test for presence),
    and with the reasoning of an earlier answer under every name it is read by.

    Raises RequestError when there are none, or one of them is not a mapping with a role that is a string.
    """
    if isinstance(messages, (str, Mapping)) or not messages:
        raise RequestError("messages must be a list with at least one message.", _MESSAGE_HINT)
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(f"Message {index} has no role.", _MESSAGE_HINT)
    present = [{key: value for key, value in message.items() if value is not None} for message in messages]
    return [_with_reasoning_names(message) for message in present]


def _with_reasoning_names(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


_REASONING = ("reasoning_content", "thinking", "reasoning")
_MESSAGE_HINT = 'A message looks like {"role": "user", "content": "Hello"}.'

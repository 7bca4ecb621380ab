"""The items of an input: messages, calls of tools and their results, and reasoning."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import model_validator

from inflight.triton_backend.openai.protocol.messages import Part
from inflight.triton_backend.openai.protocol.refusals import MEDIA
from inflight.triton_backend.openai.protocol.values import Body, refusing, string_or

_RUN_BY_SERVERS = (
    "file_search_call",
    "web_search_call",
    "computer_call",
    "computer_call_output",
    "code_interpreter_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "tool_search_call",
    "tool_search_output",
)

# Per type what an item of it must have.
_NEEDS: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


class ContentPart(Part):
    """Of a message, as an earlier answer had it, too, or of reasoning; what it has beside its text is not read."""

    type: Annotated[  # type: ignore[assignment]  # It has more of them.
        Literal["text", "input_text", "output_text", "refusal", "reasoning_text", "summary_text"],
        refusing(MEDIA, "input_image", "input_audio", "input_file", "image_url", "computer_screenshot"),
    ]
    annotations: Any = None
    logprobs: Any = None
    parsed: Any = None


if TYPE_CHECKING:
    Content = str | list[ContentPart]
else:
    Content = Annotated[list[ContentPart], string_or("parts")]


class Item(Body):
    """One item of any type. A message may leave its type out."""

    type: Annotated[
        Literal["message", "function_call", "function_call_output", "reasoning"],
        refusing("tools that are no functions of the client", *_RUN_BY_SERVERS),
        refusing("references to items; send the items, or previous_response_id", "item_reference"),
    ] = "message"
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Content | None = None
    phase: Any = None
    call_id: str | None = None
    name: str | None = None
    namespace: Any = None
    caller: Any = None
    arguments: str | None = None
    parsed_arguments: Any = None
    output: Content | None = None
    summary: list[ContentPart] | None = None
    encrypted_content: str | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Item:
        for name in _NEEDS[self.type]:
            if getattr(self, name) is None:
                raise ValueError(f"an item of the type '{self.type}' needs '{name}'")
        if self.id is None:
            self.id = f"{_PREFIXES[self.type]}_{uuid.uuid4().hex}"
        return self

    def listed(self) -> dict[str, Any]:
        """The item as input_items shows it."""
        # What may be a string or a list would be warned of.
        shown = self.model_dump(exclude_none=True, warnings=False)
        if self.type == "message" and isinstance(self.content, str):
            kind = "output_text" if self.role == "assistant" else "input_text"
            shown["content"] = [{"type": kind, "text": self.content}]
        return {**shown, "status": self.status or "completed"}


def shown_text(content: Content | None) -> str:
    """The text of content, whatever its parts are."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.shown for part in content)

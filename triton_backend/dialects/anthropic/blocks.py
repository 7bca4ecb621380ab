"""The content blocks of messages, as a client sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import model_validator

from inflight.triton_backend.openai.protocol.values import Body, Refused, refusing, string_or

_MEDIA = "images, documents that are no text, files and search results"
_MEDIA_KINDS = ("image", "search_result", "container_upload")
_SERVER_KINDS = (
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
)

# Per type what a block of it must have.
_NEEDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "document": ("source",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
}


class Source(Body):
    """Of a document."""

    type: Annotated[Literal["text"], refusing(_MEDIA, "base64", "url", "file", "content")]
    media_type: str | None = None
    data: str


class Block(Body):
    """One block of any type. Marks of caches, signatures and callers change no answer."""

    type: Annotated[
        Literal["text", "thinking", "redacted_thinking", "document", "tool_use", "tool_result"],
        refusing(_MEDIA, *_MEDIA_KINDS),
        refusing("tools that it would have to run itself", *_SERVER_KINDS),
    ]
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    source: Source | None = None
    title: str | None = None
    context: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    caller: Any = None
    tool_use_id: str | None = None
    content: Blocks | None = None
    is_error: bool = False
    cache_control: Any = None
    citations: Any = None
    parsed_output: Any = None
    toolset_name: Any = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Block:
        for name in _NEEDS[self.type]:
            if getattr(self, name) is None:
                raise ValueError(f"a block of the type '{self.type}' needs '{name}'")
        if isinstance(self.citations, dict):
            Refused("citations").check(self.citations.get("enabled"))
        return self

    @property
    def shown(self) -> str:
        """What the model reads of a text or a document."""
        if self.source is None:
            return self.text or ""
        return "\n".join(each for each in (self.title, self.context, self.source.data) if each)


if TYPE_CHECKING:
    Blocks = str | list[Block]
else:
    Blocks = Annotated[list[Block], string_or("blocks")]
Block.model_rebuild()


def text_of(content: Blocks | None) -> str:
    """The text of content in which nothing but text can be read, such as the result of a tool."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.shown for block in content)


def content_of(blocks: Sequence[Block]) -> str | list[dict[str, Any]]:
    """Texts and documents as OpenAI's content: a string where there is one."""
    texts = [block.shown for block in blocks]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]

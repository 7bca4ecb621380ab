"""Calls of tools in the messages of a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from inflight.runtime.text.chat.tool_messages import call_arguments
from inflight.triton_backend.openai.protocol.values import Body, refusing


class CalledFunction(Body):
    """`arguments` as the object that their JSON text says."""

    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(call_arguments)] = {}  # noqa: RUF012 (pydantic copies it)


class ToolCallBody(Body):
    """A call of an earlier answer. `index` is that of a stream whose pieces were put together."""

    id: str | None = None
    type: Annotated[Literal["function"], refusing("tools that are no functions", "custom")] = "function"
    function: CalledFunction
    index: int | None = None

    def as_dict(self) -> dict[str, Any]:
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return {**({} if self.id is None else {"id": self.id}), "type": "function", "function": function}

"""Calls whose arguments stand one by one between marks, beside those that are JSON objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inflight.runtime.text.parsers.function_block import FunctionBlock
from inflight.runtime.text.parsers.parts import Part
from inflight.runtime.text.parsers.tool_format import Tools
from inflight.runtime.text.parsers.tools.json_calls import CallReader, JsonCallParser


class BlockParser(JsonCallParser):
    """Reads blocks of `kind`; models may write a JSON object in place of one. `opens_block`: the marker that is the
    beginning of a block, where one of `opening` is."""

    def __init__(
        self,
        kind: type[FunctionBlock],
        tools: Tools,
        opening: Sequence[str],
        closing: str,
        opens_block: str | None = None,
    ) -> None:
        super().__init__(opening, closing)
        self._kind = kind
        self._opens_block = opens_block
        self._schemas = {tool.name: tool.parameters.get("properties", {}) for tool in tools}

    def finish(self) -> Iterator[Part]:
        if isinstance(self._call, FunctionBlock):
            self._call.settle()
            yield from self.push("")
        yield from super().finish()

    def _reader(self, index: int, opened_by: str | None) -> CallReader:
        if self._opens_block is not None and opened_by == self._opens_block:
            return self._kind(index, self._schemas, is_open=True)
        if self._held.startswith("{"):
            return super()._reader(index, opened_by)
        return self._kind(index, self._schemas)

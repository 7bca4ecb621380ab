"""Responses that are kept in memory, so many bytes of them: those that were not used for longest go first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from inflight.triton_backend.dialects.responses.items import Item
from inflight.triton_backend.openai.answers.json_answer import json_bytes
from inflight.triton_backend.openai.errors import ApiError

MOST_BYTES = 64 << 20


@dataclass(slots=True)
class Kept:
    """A response as the API shows it, the items of its own input, and the task of one that runs in the background."""

    response: dict[str, Any]
    items: list[Item]
    task: asyncio.Task[None] | None = None
    size: int = field(default=0)

    @property
    def previous(self) -> str | None:
        previous: str | None = self.response["previous_response_id"]
        return previous


class ResponseStore:
    """Used from one event loop."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._most_bytes = most_bytes
        self._bytes = 0

    def put(self, kept: Kept) -> None:
        """Keep it, or what has become of it. Responses that are running stay."""
        response_id = kept.response["id"]
        self._drop(response_id)
        kept.size = len(json_bytes(kept.response)) + sum(len(json_bytes(item.listed())) for item in kept.items)
        self._kept[response_id] = kept
        self._bytes += kept.size
        while self._bytes > self._most_bytes:
            oldest = next((name for name, each in self._kept.items() if each.task is None), None)
            if oldest is None:
                return
            self._drop(oldest)

    def refresh(self, kept: Kept) -> None:
        """When it has ended. One that was deleted meanwhile stays so."""
        if self._kept.get(kept.response["id"]) is kept:
            self.put(kept)

    def find(self, response_id: str) -> Kept:
        """Raises ApiError (404)."""
        kept = self._kept.get(response_id)
        if kept is None:
            raise ApiError(404, f"Response with id '{response_id}' not found: {_WHY}.", param="response_id")
        self._kept.move_to_end(response_id)
        return kept

    def remove(self, response_id: str) -> None:
        """Raises ApiError (404). What runs in the background ends."""
        task = self.find(response_id).task
        if task is not None:
            task.cancel()
        self._drop(response_id)

    def items_until(self, response_id: str | None) -> list[Item]:
        """The inputs and outputs of a response and of all before it, in order. Raises ApiError (400)."""
        return [item for kept in reversed([*self._back_from(response_id)]) for item in (*kept.items, *_output(kept))]

    def _back_from(self, response_id: str | None) -> Iterator[Kept]:
        seen: set[str] = set()
        while response_id is not None and response_id not in seen:
            seen.add(response_id)
            kept = self._kept.get(response_id)
            if kept is None:
                message = f"Previous response with id '{response_id}' not found: {_WHY}."
                raise ApiError(400, message, param="previous_response_id", code="previous_response_not_found")
            if kept.task is not None:
                message = f"The response '{response_id}' has not ended yet."
                raise ApiError(400, message, param="previous_response_id")
            self._kept.move_to_end(response_id)
            yield kept
            response_id = kept.previous

    def _drop(self, response_id: str) -> None:
        kept = self._kept.pop(response_id, None)
        if kept is not None:
            self._bytes -= kept.size


_WHY = "it was never stored (store: false), was deleted, made room for newer ones, or the server was started since"


def _output(kept: Kept) -> list[Item]:
    return [Item.model_validate(each) for each in kept.response["output"]]

"""What all pieces of one answer have in common."""

from __future__ import annotations

import uuid
from typing import Any

from inflight.triton_backend.openai.answers.choice import Usage
from inflight.triton_backend.openai.protocol.generation import GenerationBody
from inflight.triton_backend.openai.service import Generation, Service


class Envelope:
    """The id, time, model and usage of one answer. Every chunk of a stream has the same id and time."""

    def __init__(self, kind: str, service: Service, body: GenerationBody, generations: list[Generation]) -> None:
        self._body = body
        self._fields = {
            "id": f"{kind}-{body.request_id or uuid.uuid4().hex}",
            "created": service.now(),
            "model": service.model_name,
        }
        self.usage = Usage(generations)

    def whole(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer that is not streamed; `kind` is its `object`."""
        return {**self._fields, "object": kind, "choices": choices, "usage": self.usage.as_dict()}

    def chunk(self, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        """A chunk with news of one choice."""
        usage: dict[str, Any] = {}
        if self._body.wants_usage:
            usage = {"usage": self.usage.as_dict() if self._body.wants_usage_so_far else None}
        return {**self._fields, "object": kind, "choices": [choice], **usage}

    def last_chunk(self, kind: str) -> dict[str, Any]:
        """The chunk that ends a stream whose usage is wanted."""
        return {**self._fields, "object": kind, "choices": [], "usage": self.usage.as_dict()}

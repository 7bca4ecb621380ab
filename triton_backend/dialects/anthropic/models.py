"""/v1/models for Anthropic's clients, whose requests name a version of its API."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from inflight.triton_backend.openai.service import Service

VERSION = "anthropic-version"


def models_page(service: Service) -> dict[str, Any]:
    """The only page of the list."""
    model = model_info(service)
    return {"data": [model], "has_more": False, "first_id": model["id"], "last_id": model["id"]}


def model_info(service: Service) -> dict[str, Any]:
    longest = service.manifest.limits.max_seq_len
    return {
        "id": service.model_name,
        "type": "model",
        "display_name": service.model_name,
        "created_at": datetime.fromtimestamp(service.created, timezone.utc).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": longest - 1,
        "max_tokens": longest - 1,
    }

"""All routes under /api."""

from __future__ import annotations

from fastapi import APIRouter
from msgspec import UNSET

from inflight.triton_backend.dialects.ollama.embeddings import embed_router
from inflight.triton_backend.dialects.ollama.generation import generation_router
from inflight.triton_backend.dialects.ollama.models import models_router
from inflight.triton_backend.openai.service import Service


def ollama_routers(service: Service) -> list[APIRouter]:
    """Those of the model's task, and those that tell of it."""
    pooling = service.manifest.pooling
    if pooling is UNSET:
        return [models_router(service), generation_router(service)]
    return [models_router(service), *([embed_router(service)] if pooling.task == "embed" else [])]

"""Every dialect: its routes, and the shape of its errors by path."""

from __future__ import annotations

from fastapi import APIRouter
from msgspec import UNSET

from inflight.triton_backend.dialects.anthropic.errors import anthropic_error
from inflight.triton_backend.dialects.anthropic.routes import messages_router
from inflight.triton_backend.dialects.ollama.errors import ollama_error
from inflight.triton_backend.dialects.ollama.routes import ollama_routers
from inflight.triton_backend.dialects.responses.routes import responses_router
from inflight.triton_backend.dialects.tgi.errors import tgi_error
from inflight.triton_backend.dialects.tgi.routes import generate_router, info_router
from inflight.triton_backend.openai.errors import ErrorShapes
from inflight.triton_backend.openai.service import Service

ERROR_SHAPES = ErrorShapes(
    {
        "/v1/messages": anthropic_error,
        "/api": ollama_error,
        # Triton's errors have the same shape.
        "/v2/repository": ollama_error,
        "/": tgi_error,
        "/generate": tgi_error,
        "/generate_stream": tgi_error,
    }
)

# Paths whose inputs are truncated unless the body says otherwise.
TRUNCATING = ("/api/embed", "/api/embeddings")


def dialect_routers(service: Service) -> list[APIRouter]:
    """The routes of the model's task; of the others, openai/pooling/other_tasks.py has the refusals."""
    routers = [info_router(service), *ollama_routers(service)]
    if service.manifest.pooling is UNSET:
        routers += [messages_router(service), responses_router(service), generate_router(service)]
    return routers

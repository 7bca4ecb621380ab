"""POST /, /generate and /generate_stream, and GET /info."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from inflight import __version__
from inflight.runtime.scheduler.admission import Waiting
from inflight.triton_backend.dialects.asking import in_words_of, read_body
from inflight.triton_backend.dialects.sglang.routes import generate as sglang_generate
from inflight.triton_backend.dialects.sglang.routes import is_sglangs
from inflight.triton_backend.dialects.tgi.answer import FRAMING, TgiAnswer
from inflight.triton_backend.dialects.tgi.body import NAMES, GenerateBody, check
from inflight.triton_backend.openai.answers.prepared import prepare_completion
from inflight.triton_backend.openai.protocol.checks import check_completion
from inflight.triton_backend.openai.protocol.completion import CompletionBody
from inflight.triton_backend.openai.service import Service
from inflight.triton_backend.openai.streaming import respond


def generate_router(service: Service) -> APIRouter:
    router = APIRouter()

    def prepare(body: GenerateBody, stream: bool, in_list: bool) -> TgiAnswer:
        with in_words_of(NAMES):
            check(body, stream)
            fields = {"prompt": body.inputs, "stream": stream, **body.parameters.completion_fields(service.watermark)}
            asked = read_body(CompletionBody, fields)
            check_completion(asked)
            (generation,) = prepare_completion(service, asked)
        return TgiAnswer(service, body, generation, in_list)

    async def answer(request: Request, body: GenerateBody, stream: bool, in_list: bool = False) -> Response:
        prepared = await service.tokenizing(len(body.inputs), lambda: prepare(body, stream, in_list))
        return await respond(request, prepared, stream, FRAMING)

    @router.post("/")
    async def compatible(body: GenerateBody, request: Request) -> Response:
        return await answer(request, body, body.stream, in_list=True)

    @router.post("/generate")
    async def generate(body: dict[str, Any], request: Request) -> Response:
        """SGLang has this path, too."""
        if is_sglangs(body):
            return await sglang_generate(service, body, request)
        with in_words_of({}):
            read = GenerateBody.model_validate(body)
        return await answer(request, read, stream=False)

    @router.post("/generate_stream")
    async def generate_stream(body: GenerateBody, request: Request) -> Response:
        return await answer(request, body, stream=True)

    return router


def info_router(service: Service) -> APIRouter:
    """What the server is, whatever the model's task."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def root() -> Response:
        return PlainTextResponse(f"inflight serves {service.model_name}\n")

    @router.get("/info")
    async def info() -> dict[str, Any]:
        return _info(service)

    return router


def _info(service: Service) -> dict[str, Any]:
    """In TGI's names. Prompt and answer share the context, so that either may have all of it but a token."""
    manifest = service.manifest
    longest = manifest.limits.max_seq_len
    waiting = service.waiting or Waiting(0.0, 0)
    return {
        "model_id": service.model_name,
        "model_sha": manifest.source.revision,
        "model_dtype": manifest.model.dtype,
        "model_device_type": "cpu" if manifest.target in ("cpu", "reference") else manifest.target,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": manifest.limits.max_batch_size,
        "max_best_of": 128,
        "max_stop_sequences": 128,
        "max_input_tokens": longest - 1,
        "max_total_tokens": longest,
        "max_batch_total_tokens": manifest.limits.max_num_tokens,
        "max_waiting_tokens": waiting.max_tokens,
        "waiting_served_ratio": waiting.served_ratio,
        "validation_workers": 1,
        "max_client_batch_size": 1,
        "router": "inflight",
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }

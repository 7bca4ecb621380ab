"""GET /api/version, /api/tags and /api/ps, POST /api/show: the model that there is."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from fastapi import APIRouter, Response
from msgspec import UNSET

from inflight import __version__
from inflight.triton_backend.dialects.ollama.answer import FRAMING, timestamp
from inflight.triton_backend.dialects.ollama.body import ModelBody, PullBody, ShowBody
from inflight.triton_backend.openai.answers.json_answer import JsonAnswer
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.service import Service

# Of Ollama, whose API this is: clients turn away from versions that are too old for what they want.
_VERSION = "0.12.6"
_REFUSED = (("POST", "/api/push"), ("POST", "/api/create"), ("POST", "/api/copy"), ("DELETE", "/api/delete"))
_CENTURY_S = 100 * 365 * 24 * 3600


def models_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/api/version")
    async def version() -> dict[str, str]:
        return {"version": _VERSION, "inflight": __version__}

    @router.get("/api/tags")
    async def tags() -> dict[str, Any]:
        return {"models": [_entry(service) | {"modified_at": timestamp(service.created)}]}

    @router.get("/api/ps")
    async def running() -> dict[str, Any]:
        """The model never leaves."""
        more = {
            "expires_at": timestamp(service.created + _CENTURY_S),
            "size_vram": 0,
            "context_length": service.manifest.limits.max_seq_len,
        }
        return {"models": [_entry(service) | more]}

    @router.post("/api/show")
    async def show(body: ShowBody) -> dict[str, Any]:
        check_model(service, body)
        template = service.tokenizer.chat_template
        defaults = service.manifest.generation.sampling_defaults
        return {
            "modelfile": f"FROM {service.model_name}\n",
            "parameters": "\n".join(f"{name} {json.dumps(value)}" for name, value in defaults.items()),
            "template": "" if template is None else template.default_source,
            "details": _details(service),
            "model_info": _model_info(service),
            "capabilities": _capabilities(service),
            "modified_at": timestamp(service.created),
        }

    @router.post("/api/pull")
    async def pull(body: PullBody) -> Response:
        """Programs pull what they are about to use: what is served is there."""
        check_model(service, body)
        done = {"status": "success"}
        return Response(f"{json.dumps(done)}\n", media_type=FRAMING.media_type) if body.stream else JsonAnswer(done)

    async def refuse() -> Response:
        raise ApiError(
            400, "Models are named when the server is started (inflight serve MODEL), and not changed by it."
        )

    for method, path in _REFUSED:
        router.add_api_route(path, refuse, methods=[method], include_in_schema=False)
    return router


def check_model(service: Service, body: ModelBody) -> None:
    """Raises ApiError: 400 without a name, 404 for another model's where names are taken strictly. A tag `latest` is
    no part of the name."""
    name = body.model or body.name
    if not name:
        raise ApiError(400, "Missing required parameter: 'model'.", param="model")
    service.check_model(name.removesuffix(":latest"))


def _entry(service: Service) -> dict[str, Any]:
    return {
        "name": service.model_name,
        "model": service.model_name,
        "size": service.manifest.memory.weights_bytes,
        "digest": service.manifest.source.checkpoint_sha256,
        "details": _details(service),
    }


def _details(service: Service) -> dict[str, Any]:
    manifest = service.manifest
    weights = Counter(each.weights for each in manifest.precision.values())
    level = weights.most_common(1)[0][0] if weights else manifest.model.dtype
    return {
        "parent_model": "",
        "format": "inflight",
        "family": manifest.model.architecture,
        "families": [manifest.model.architecture],
        "parameter_size": _in_short(manifest.model.num_parameters),
        "quantization_level": level.upper(),
    }


def _in_short(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return str(number)


def _model_info(service: Service) -> dict[str, Any]:
    """In the names of GGUF's metadata, by which clients find the length of the context."""
    model = service.manifest.model
    name = model.architecture
    return {
        "general.architecture": name,
        "general.parameter_count": model.num_parameters,
        f"{name}.context_length": service.manifest.limits.max_seq_len,
        f"{name}.block_count": model.num_hidden_layers,
        f"{name}.embedding_length": model.hidden_size,
        f"{name}.feed_forward_length": model.intermediate_size,
        f"{name}.attention.head_count": model.num_attention_heads,
        f"{name}.attention.head_count_kv": model.num_key_value_heads,
        f"{name}.vocab_size": model.vocab_size,
    }


def _capabilities(service: Service) -> list[str]:
    if service.manifest.pooling is not UNSET:
        return ["embedding"] if service.manifest.pooling.task == "embed" else []
    tools = ["tools"] if service.tokenizer.chat_template is not None else []
    return ["completion", *tools, *(["thinking"] if service.reasoning_family is not None else [])]

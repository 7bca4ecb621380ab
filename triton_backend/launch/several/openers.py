"""How the engines of several models come and go: in this process, or in Triton."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from inflight.errors import EngineError
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.triton_backend.launch.api.service import open_service
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.launch.several.repository import add_models, models_of, remove_models
from inflight.triton_backend.models.names import ServedModel
from inflight.triton_backend.openai.service import Service

_TICK_S = 0.05
_LONGEST_UNLOAD_S = 120.0


def options_of(options: ServeOptions, name: str, cache_bytes: int) -> ServeOptions:
    """Those of one of several models. Its share of the memory has been counted against what is free."""
    own: dict[str, Any] = {"model_name": name, "kv_cache_bytes": cache_bytes, "kv_cache_fraction": 1.0}
    return options.model_copy(update=own)


class InThisProcess:
    """An Opener. Every engine has its scheduler and its thread."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options

    def open(self, model: ServedModel, cache_bytes: int, is_there: bool) -> Service:
        heartbeat = Heartbeat.of_environment(model.name)
        heartbeat.reset()
        return open_service(model.engine_dir, options_of(self._options, model.name, cache_bytes), None, heartbeat)

    def remove(self, model: ServedModel) -> None:
        """The engine goes with its backend."""


class InTriton:
    """An Opener over the repository API of the server at `url` (gRPC). `repository`: its folder, which holds the models
    that are loaded, so that a server which is started again loads these. `overrides`: template variables."""

    def __init__(self, options: ServeOptions, url: str, repository: Path, overrides: Mapping[str, str]) -> None:
        self._options = options
        self._url = url
        self._repository = repository
        self._overrides = overrides

    def open(self, model: ServedModel, cache_bytes: int, is_there: bool) -> Service:
        if not is_there:
            names = add_models(model, self._repository, with_cache(self._overrides, cache_bytes))
            # An ensemble, which loads what it is made of, comes after that.
            try:
                self._load(sorted(names, key=lambda name: ".ensemble" in name))
            except BaseException:
                self.remove(model)
                raise
        options = options_of(self._options, model.name, cache_bytes)
        return open_service(model.engine_dir, options, self._url, Heartbeat(), in_front=f"{model.name}.")

    def remove(self, model: ServedModel) -> None:
        names = sorted(models_of(model, self._repository), key=lambda name: ".ensemble" not in name)
        with triton.InferenceServerClient(self._url) as client:
            for name in names:
                with suppress(InferenceServerException):  # which was not loaded
                    client.unload_model(name)
            deadline = time.monotonic() + _LONGEST_UNLOAD_S
            while (left := _loaded(client) & set(names)) and time.monotonic() < deadline:
                time.sleep(_TICK_S)
        remove_models(model, self._repository)
        if left:
            raise EngineError(f"Triton has not unloaded {', '.join(sorted(left))}: requests of its own clients run.")

    def _load(self, names: list[str]) -> None:
        with triton.InferenceServerClient(self._url) as client:
            for name in names:
                try:
                    client.load_model(name)
                except InferenceServerException as error:
                    raise EngineError(f"Triton cannot load {name}: {error.message()}") from error


def with_cache(overrides: Mapping[str, str], cache_bytes: int) -> dict[str, str]:
    """The template variables of a model with such a KV cache."""
    return {**overrides, "kv_cache_bytes": str(cache_bytes), "kv_cache_free_gpu_mem_fraction": "1.0"}


def _loaded(client: Any) -> set[str]:
    """Those that are loaded, or not yet unloaded."""
    try:
        index = client.get_model_repository_index()
    except InferenceServerException as error:
        raise EngineError(f"Triton cannot be reached: {error.message()}") from error
    return {each.name for each in index.models if each.state == "READY" or each.reason == "unloading"}

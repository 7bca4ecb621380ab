"""The model `pooling`: texts or token ids in, a vector or a raw score of each out, the engine in between."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, cast

from inflight.errors import EngineError
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.pooling.texts import TextReader
from inflight.runtime.pooling.thread import PoolingThread
from inflight.runtime.pooling.vectors import Floats
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.pooling.tensors import pooled_tensors, read_texts
from inflight.triton_backend.wire.engine_settings import load_executor
from inflight.triton_backend.wire.request_threads import Call, RequestThreads
from inflight.triton_backend.wire.server_process import end_with_server
from inflight.triton_backend.wire.triton_api import ModelSettings, check_numpy


class TritonPythonModel:
    """One instance per process: it holds the engine, its thread, and a thread for each request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy()
        end_with_server()
        settings = ModelSettings(args)
        executor = cast(PoolingExecutor, load_executor(settings))
        self._reader = TextReader(executor.manifest, load_tokenizer(Path(settings.required("tokenizer_dir"))))
        self._size = self._reader.facts.vector_size
        self._engine = PoolingThread(
            executor,
            Heartbeat.of_environment(settings.model_name),
            max_queue_size=settings.integer("max_queue_size") or 0,
        )
        self._running: dict[str, Future[list[Floats]]] = {}
        self._threads = RequestThreads(settings, self._serve, self._stop)

    def execute(self, requests: list[Any]) -> None:
        """Begin the requests; their answers follow from other threads."""
        for request in requests:
            self._threads.start(request)

    def is_ready(self) -> bool:
        """Asked by servers newer than 2.51."""
        return self._engine.healthy

    def finalize(self) -> None:
        self._engine.close()
        self._threads.close()

    def _serve(self, call: Call) -> None:
        if not self._engine.healthy:
            raise EngineError(f"The engine has stopped: {self._engine.failure}", "Restart the server.")
        texts = read_texts(call.tensors, self._reader)
        future = self._engine.submit(texts)
        self._running[call.request_id] = future
        try:
            vectors = future.result()
        except CancelledError:
            call.channel.finish()
            return
        finally:
            del self._running[call.request_id]
        call.channel.send(pooled_tensors(vectors, texts, self._size), final=True)

    def _stop(self, request_id: str) -> None:
        future = self._running.get(request_id)
        if future is not None:
            future.cancel()

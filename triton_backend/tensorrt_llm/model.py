"""The model `tensorrt_llm`: token ids in, token ids out, the engine in between."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

from inflight.errors import EngineError, InflightError, RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.base import Executor
from inflight.runtime.executors.registry import find_loader
from inflight.runtime.scheduler.admission import Policy, waiting_rule
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.tensorrt_llm.engine_metrics import EngineMemory, EngineMetrics
from inflight.triton_backend.tensorrt_llm.generation_request import GenerationRequest, ModelDefaults, read_request
from inflight.triton_backend.tensorrt_llm.refused_inputs import NO_STREAMING, ONE_SEQUENCE, refuse_unsupported
from inflight.triton_backend.tensorrt_llm.response_sender import ResponseSender
from inflight.triton_backend.tensorrt_llm.response_stream import ResponseStream
from inflight.triton_backend.wire.client_names import names_of_ids_client, names_of_text_client
from inflight.triton_backend.wire.engine_settings import kv_offload, load_executor
from inflight.triton_backend.wire.input_limits import check_sizes
from inflight.triton_backend.wire.joined_rows import JoinedRows
from inflight.triton_backend.wire.request_tensors import Array, RowTensors, batch_size
from inflight.triton_backend.wire.server_process import end_with_server
from inflight.triton_backend.wire.triton_api import (
    ModelSettings,
    TritonChannel,
    check_numpy,
    input_arrays,
    log_exception,
)


class TritonPythonModel:
    """One instance per process: it holds the engine, its thread, and the thread that sends responses."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy()
        end_with_server()
        settings = ModelSettings(args)
        self._decoupled = settings.decoupled
        executor = load_executor(settings)
        self._defaults = ModelDefaults(
            end_token_ids=executor.manifest.generation.end_token_ids,
            vocab_size=executor.manifest.model.vocab_size,
            max_seq_len=executor.manifest.limits.max_seq_len,
            exclude_input_in_output=settings.flag("exclude_input_in_output", False),
            max_beam_width=settings.integer("max_beam_width"),
        )
        self._heartbeat = Heartbeat.of_environment(settings.model_name)
        core = EngineCore(
            executor,
            scheduler_config(settings),
            self._heartbeat,
            _grammars(settings, executor),
            kv_offload(settings),
        )
        self._engine = EngineThread(core)
        # Grammars are compiled here, one after the other, while requests without one go on.
        self._structured = ThreadPoolExecutor(1, "inflight-structured")
        self._metrics = EngineMetrics(settings.model_name, settings.model_version, _memory(executor))
        period_s = (settings.integer("cancellation_check_period_ms") or 100) / 1000
        self._sender = ResponseSender(self._engine, period_s, self._tick)

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests; the responses follow from another thread, in decoupled mode and without."""
        for request in requests:
            channel = TritonChannel(request)
            self._guarded(channel, partial(self._accept, request, channel))

    def is_ready(self) -> bool:
        """Asked by servers newer than 2.51."""
        return self._engine.healthy

    def finalize(self) -> None:
        self._structured.shutdown(cancel_futures=True)
        self._engine.close()
        self._sender.close()

    def _accept(self, request: Any, channel: TritonChannel) -> None:
        if not self._engine.healthy:
            raise EngineError(f"The engine has stopped: {self._engine.failure}", "Restart the server.")
        tensors = input_arrays(request)
        first = RowTensors(tensors, 0)
        names = names_of_ids_client(tensors)
        # Inside `ensemble`, which alone asks for it, the client speaks text.
        channel.names = names_of_text_client(names) if first.flag("return_decode_context") else names
        client_id = request.request_id()
        if first.flag("stop"):
            if not client_id:
                raise RequestError("A request id must be provided for request cancellation.")
            self._sender.stop(client_id, first.integer("stop_sequence_index"))
            channel.finish()
            return
        refuse_unsupported(tensors)
        check_sizes(tensors, vocab_size=self._defaults.vocab_size)
        rows = self._read_rows(tensors)
        answers = channel if self._decoupled or len(rows) == 1 else JoinedRows(channel)
        stream = ResponseStream(answers, rows, client_id, self._metrics.observe_request)
        if any(row.request.params.has_grammar for row in rows):
            self._structured.submit(self._guarded, channel, partial(self._sender.submit, stream))
        else:
            self._sender.submit(stream)

    def _guarded(self, channel: TritonChannel, work: Callable[[], None]) -> None:
        """Do `work` for a request; its error is the request's answer."""
        try:
            work()
        except InflightError as error:
            channel.send_error(error)
        except Exception as error:
            # An unexpected error in one request must not leave the others without an answer.
            log_exception("tensorrt_llm: a request failed")
            channel.send_error(EngineError(f"{type(error).__name__}: {error}"))

    def _read_rows(self, tensors: Mapping[str, Array]) -> list[GenerationRequest]:
        """A batch is one request per row: rows share no state. Ids are our own, because clients may repeat theirs."""
        count = batch_size(tensors, "input_ids")
        rows = [read_request(RowTensors(tensors, row), uuid.uuid4().hex, self._defaults) for row in range(count)]
        if not self._decoupled:
            if any(row.wanted.streaming for row in rows):
                raise RequestError(NO_STREAMING, "Write the repository with decoupled_mode:true.")
            if any(row.request.num_sequences > 1 and row.request.beams is None for row in rows):
                raise RequestError(ONE_SEQUENCE, "Write the repository with decoupled_mode:true.")
        return rows

    def _tick(self) -> None:
        """A server that stops asks for the end of an idle engine before it ends this process: Triton 2.51 now and then
        holds on to a model that it should finalize, and no block of the KV cache would be kept."""
        if self._heartbeat.is_asked_to_close():
            self._engine.close()
        self._metrics.update(self._engine.stats())


def _grammars(settings: ModelSettings, executor: Executor) -> GrammarCompiler | None:
    files = Path(settings.required("gpt_model_path")) / "tokenizer"
    if not files.is_dir():
        return None
    grammars = GrammarCompiler(partial(load_tokenizer, files), executor.manifest)
    grammars.prepare()
    return grammars


def _memory(executor: Executor) -> EngineMemory:
    manifest = executor.manifest
    planned = manifest.memory.weights_bytes + manifest.memory.workspace_bytes
    total = planned + executor.num_blocks * manifest.kv_cache.bytes_per_block
    return EngineMemory(find_loader(manifest.target).memory_place, total)


def scheduler_config(settings: ModelSettings) -> SchedulerConfig:
    """Raises ValueError or EngineError for what a scheduler cannot do."""
    policy = settings.text("batch_scheduler_policy") or "guaranteed_no_evict"
    return SchedulerConfig(
        policy=cast(Policy, policy),  # which it checks
        enable_prefix_caching=settings.flag("enable_kv_cache_reuse", True),
        max_queue_size=settings.integer("max_queue_size") or 0,
        waiting=waiting_rule(settings.number("waiting_served_ratio"), settings.integer("max_waiting_tokens")),
    )

"""The service of an engine: with the engine in this process, or over Triton."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from msgspec import UNSET

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.heartbeat import Heartbeat
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.loading.accuracy import engine_accuracy
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import load_engine
from inflight.runtime.pooling.thread import PoolingThread
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.openai.backends.base import TokenBackend
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from inflight.triton_backend.openai.backends.embedded_pooling import EmbeddedPooling
from inflight.triton_backend.openai.backends.triton import TritonBackend
from inflight.triton_backend.openai.backends.triton_pooling import TritonPooling
from inflight.triton_backend.openai.metrics import ShimMetrics
from inflight.triton_backend.openai.service import Service


def open_service(
    engine_dir: Path, options: ServeOptions, triton: str | None, heartbeat: Heartbeat, in_front: str = ""
) -> Service:
    """`triton`: the gRPC address of the server to use, and `in_front` what stands before the names of its models; None:
    the engine is loaded, and its steps are noted in `heartbeat`. Raises InflightError or OSError for an engine that
    cannot be loaded."""
    manifest = read_engine_directory(engine_dir).manifest
    tokenizer = load_tokenizer(engine_dir / "tokenizer")
    if options.chat_template is not None:
        tokenizer = tokenizer.with_chat_template(options.chat_template)
    return Service(
        options.model_name,
        manifest,
        tokenizer,
        _backend(engine_dir, options, triton, heartbeat, tokenizer, in_front),
        ShimMetrics(),
        strict_model_name=options.strict_model_name,
        max_body_bytes=options.max_body_bytes,
        accuracy=engine_accuracy(engine_dir, manifest).facts(),
        max_queue_size=options.max_queue_size,
        tool_call_parser=options.tool_call_parser,
        reasoning_parser=options.reasoning_parser,
        watermark=options.watermark,
        waiting=options.waiting,
        template_variables=options.template_variables,
    )


def _backend(
    engine_dir: Path,
    options: ServeOptions,
    triton: str | None,
    heartbeat: Heartbeat,
    tokenizer: Tokenizer,
    in_front: str,
) -> TokenBackend:
    if triton is not None:
        pools = read_engine_directory(engine_dir).manifest.pooling is not UNSET
        if pools:
            return TritonPooling(triton, f"{in_front}pooling")
        return TritonBackend(triton, f"{in_front}tensorrt_llm")
    executor = load_engine(engine_dir, threads=options.threads, kv_cache=options.budget)
    if executor.manifest.pooling is not UNSET:
        pooling = cast(PoolingExecutor, executor)
        return EmbeddedPooling(PoolingThread(pooling, heartbeat, max_queue_size=options.max_queue_size))
    config = SchedulerConfig(
        policy=options.policy,
        enable_prefix_caching=options.prefix_caching,
        max_queue_size=options.max_queue_size,
        waiting=options.waiting,
    )
    grammars = GrammarCompiler(lambda: tokenizer, executor.manifest)
    grammars.prepare()
    return EmbeddedBackend(EngineThread(EngineCore(executor, config, heartbeat, grammars, options.offload)))

"""The engine's state on Triton's /metrics and in its verbose log, under the names of tensorrtllm_backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from inflight.runtime.engine.stats import CoreStats, IterationStats
from inflight.triton_backend.wire.triton_api import pb_utils

_HISTOGRAM_BUCKETS = [10, 50, 100, 500, 1000]
# Family of gauges -> the label that tells its gauges apart.
_LABELS = {
    "nv_trt_llm_request_metrics": "request_type",
    "nv_trt_llm_runtime_memory_metrics": "memory_type",
    "nv_trt_llm_kv_cache_block_metrics": "kv_cache_block_type",
    "nv_trt_llm_inflight_batcher_metrics": "inflight_batcher_specific_metric",
    "nv_trt_llm_general_metrics": "general_type",
}


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes of weights, workspace and KV cache, and where they are."""

    place: Literal["cpu", "gpu"]
    bytes: int


@dataclass(frozen=True, slots=True)
class _Shown:
    """A gauge, and what its value is called in the log."""

    family: str
    kind: str
    name: str
    value: float


class EngineMetrics:
    """Metric families are registered when this is made and live as long as it does. `timestamp` is in microseconds."""

    def __init__(self, model_name: str, model_version: str, memory: EngineMemory) -> None:
        self._labels = {"model": model_name, "version": model_version}
        self._memory = memory
        self._families: dict[str, Any] = {}
        self._gauges: dict[tuple[str, str], Any] = {}
        self._input_lengths = self._histogram("input", "Prompt tokens of a request")
        self._output_lengths = self._histogram("output", "Generated tokens of a request")

    def observe_request(self, input_tokens: int, output_tokens: int) -> None:
        self._input_lengths.observe(input_tokens)
        self._output_lengths.observe(output_tokens)

    def update(self, stats: CoreStats) -> None:
        """Show the state of the core, and write it to the log where that is verbose: one line of JSON."""
        now = datetime.now(timezone.utc)
        microseconds = round(now.timestamp() * 1_000_000)
        logged: dict[str, Any] = {}
        for each in self._shown(stats, microseconds):
            self._gauge(each.family, each.kind).set(each.value)
            logged[each.name] = each.value
        logged["Timestamp"] = now.strftime("%m-%d-%Y %H:%M:%S.%f")
        pb_utils.Logger.log_verbose(json.dumps(logged))

    def _shown(self, stats: CoreStats, microseconds: int) -> Iterator[_Shown]:
        last = stats.last_iteration if stats.running else IterationStats()
        waiting, used = stats.waiting + stats.held, stats.used_blocks
        requests, memory, cache, batcher, general = _LABELS
        yield _Shown(requests, "active", "Active Request Count", stats.running + waiting)
        yield _Shown(requests, "max", "Max Request Count", stats.max_batch_size)
        yield _Shown(requests, "scheduled", "Scheduled Requests", last.context_sequences + last.generation_sequences)
        yield _Shown(requests, "context", "Context Requests", last.context_sequences)
        yield _Shown(requests, "waiting", "Waiting Requests", waiting)
        for place, name in (("cpu", "CPU"), ("gpu", "GPU"), ("pinned", "Pinned")):
            held = self._memory.bytes if place == self._memory.place else 0
            yield _Shown(memory, place, f"Runtime {name} Memory Usage", held)
        yield _Shown(cache, "max", "Max KV cache blocks", stats.total_blocks)
        yield _Shown(cache, "free", "Free KV cache blocks", stats.total_blocks - used)
        yield _Shown(cache, "used", "Used KV cache blocks", used)
        yield _Shown(cache, "tokens_per", "Tokens per KV cache block", stats.tokens_per_block)
        yield _Shown(cache, "reused", "Reused KV cache blocks", stats.prefix_hit_tokens // stats.tokens_per_block)
        yield _Shown(cache, "fraction", "Fraction used KV cache blocks", used / stats.total_blocks)
        yield from self._offloaded(cache, stats)
        yield _Shown(batcher, "total_context_tokens", "Total Context Tokens", last.context_tokens)
        yield _Shown(batcher, "generation_requests", "Generation Requests", last.generation_sequences)
        yield _Shown(batcher, "micro_batch_id", "MicroBatch ID", 0)
        yield _Shown(batcher, "paused_requests", "Paused Requests", last.preempted)
        yield _Shown(general, "timestamp", "Timestamp", microseconds)
        yield _Shown(general, "iteration_counter", "Iteration Counter", stats.iterations)

    @staticmethod
    def _offloaded(cache: str, stats: CoreStats) -> Iterator[_Shown]:
        """Only where blocks are offloaded: tensorrtllm_backend has no names for these."""
        counts = stats.offload
        if counts is None:
            return
        yield _Shown(cache, "offloaded", "Offloaded KV cache blocks", counts.blocks)
        yield _Shown(cache, "offload_max", "Max offloaded KV cache blocks", counts.slots)
        yield _Shown(cache, "offload_written", "KV cache blocks written by offloading", counts.blocks_written)
        yield _Shown(cache, "offload_written_bytes", "Bytes written by offloading", counts.bytes_written)
        yield _Shown(cache, "offload_read", "KV cache blocks read from offloading", counts.blocks_read)
        yield _Shown(cache, "offload_read_bytes", "Bytes read from offloading", counts.bytes_read)
        yield _Shown(cache, "offload_hit_tokens", "Tokens found by offloading", stats.offload_hit_tokens)
        yield _Shown(cache, "offload_recomputed", "Preempted requests computed again", counts.recomputed)

    def _gauge(self, family: str, kind: str) -> Any:
        if (family, kind) not in self._gauges:
            made = self._families.get(family)
            if made is None:
                made = pb_utils.MetricFamily(name=family, description=family, kind=pb_utils.MetricFamily.GAUGE)
                self._families[family] = made
            self._gauges[family, kind] = made.Metric(labels={**self._labels, _LABELS[family]: kind})
        return self._gauges[family, kind]

    def _histogram(self, side: str, description: str) -> Any:
        name = f"nv_llm_{side}_token_len"
        family = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.HISTOGRAM)
        self._families[name] = family
        labels = {**self._labels, "response_metric_type": f"total_{side}_tokens"}
        return family.Metric(labels=labels, buckets=_HISTOGRAM_BUCKETS)

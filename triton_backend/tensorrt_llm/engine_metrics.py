"""The engine's state on Triton's /metrics, under the names of tensorrtllm_backend."""

from __future__ import annotations

import time
from typing import Any

from inflight.runtime.engine.stats import CoreStats, IterationStats
from inflight.triton_backend.wire.triton_api import pb_utils

_HISTOGRAM_BUCKETS = [10, 50, 100, 500, 1000]


class EngineMetrics:
    """Metric families are registered when this is made and live as long as it does. `timestamp` is in microseconds."""

    def __init__(self, model_name: str, model_version: str) -> None:
        self._labels = {"model": model_name, "version": model_version}
        self._families: dict[str, Any] = {}
        self._gauges: dict[tuple[str, str], Any] = {}
        self._input_lengths = self._histogram("nv_llm_input_token_len", "Prompt tokens of a request")
        self._output_lengths = self._histogram("nv_llm_output_token_len", "Generated tokens of a request")

    def observe_request(self, input_tokens: int, output_tokens: int) -> None:
        self._input_lengths.observe(input_tokens)
        self._output_lengths.observe(output_tokens)

    def update(self, stats: CoreStats) -> None:
        """Show the state of the core."""
        last = stats.last_iteration if stats.running else IterationStats()
        used = stats.used_blocks
        shown: dict[str, tuple[str, dict[str, float]]] = {
            "nv_trt_llm_request_metrics": (
                "request_type",
                {
                    "active": stats.running + stats.waiting,
                    "max": stats.max_batch_size,
                    "scheduled": last.context_sequences + last.generation_sequences,
                    "context": last.context_sequences,
                    "waiting": stats.waiting,
                },
            ),
            "nv_trt_llm_kv_cache_block_metrics": (
                "kv_cache_block_type",
                {
                    "max": stats.total_blocks,
                    "free": stats.total_blocks - used,
                    "used": used,
                    "tokens_per": stats.tokens_per_block,
                    "fraction": used / stats.total_blocks,
                },
            ),
            "nv_trt_llm_inflight_batcher_metrics": (
                "inflight_batcher_specific_metric",
                {
                    "total_context_tokens": last.context_tokens,
                    "generation_requests": last.generation_sequences,
                    "micro_batch_id": 0,
                    "paused_requests": stats.preemptions,
                },
            ),
            "nv_trt_llm_general_metrics": (
                "general_type",
                {"timestamp": time.time_ns() // 1000, "iteration_counter": stats.iterations},
            ),
        }
        for family, (label, values) in shown.items():
            for kind, value in values.items():
                self._gauge(family, label, kind).set(value)

    def _gauge(self, family: str, label: str, kind: str) -> Any:
        if (family, kind) not in self._gauges:
            made = self._families.get(family)
            if made is None:
                made = pb_utils.MetricFamily(name=family, description=family, kind=pb_utils.MetricFamily.GAUGE)
                self._families[family] = made
            self._gauges[family, kind] = made.Metric(labels={**self._labels, label: kind})
        return self._gauges[family, kind]

    def _histogram(self, name: str, description: str) -> Any:
        family = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.HISTOGRAM)
        self._families[name] = family
        return family.Metric(labels=self._labels, buckets=_HISTOGRAM_BUCKETS)

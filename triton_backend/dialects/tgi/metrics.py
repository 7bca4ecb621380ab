"""TGI's names in /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from inflight.runtime.engine.stats import CoreStats

_SECONDS = tuple(0.001 * 1.5**power for power in range(28))
_TOKENS = tuple(2.0**power for power in range(18))


class TgiMetrics:
    """Requests of all dialects. Counters have TGI's names to the letter, without the `_total` that Prometheus's own
    client would add."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._counts = dict.fromkeys(("tgi_request_count", "tgi_request_success", "tgi_request_failure"), 0)
        self._duration = _histogram(registry, "tgi_request_duration", "Seconds of a request", _SECONDS)
        mean = "tgi_request_mean_time_per_token_duration"
        self._per_token = _histogram(registry, mean, "Seconds per generated token", _SECONDS)
        self._inputs = _histogram(registry, "tgi_request_input_length", "Tokens of a prompt", _TOKENS)
        self._asked = _histogram(registry, "tgi_request_max_new_tokens", "Most tokens of an answer", _TOKENS)
        self._generated = _histogram(registry, "tgi_request_generated_tokens", "Tokens of an answer", _TOKENS)
        registry.register(_Counts(self._counts))

    def request_started(self, prompt_tokens: int, max_tokens: int) -> None:
        self._counts["tgi_request_count"] += 1
        self._inputs.observe(prompt_tokens)
        if max_tokens:
            self._asked.observe(max_tokens)

    def request_ended(self, seconds: float, tokens: int, succeeded: bool) -> None:
        self._counts["tgi_request_success" if succeeded else "tgi_request_failure"] += 1
        if succeeded:
            self._duration.observe(seconds)
        if succeeded and tokens:
            self._generated.observe(tokens)
            self._per_token.observe(seconds / tokens)

    def watch_engine(self, stats: Callable[[], CoreStats | None]) -> None:
        """Include its queue and its batch, where this process has them."""
        self._registry.register(_Engine(stats))


class _Counts(Collector):
    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        for name, count in self._counts.items():
            yield UnknownMetricFamily(name, name.rpartition("_")[2] + " of requests", value=count)


class _Engine(Collector):
    def __init__(self, stats: Callable[[], CoreStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        if stats is not None:
            yield GaugeMetricFamily("tgi_queue_size", "Requests that wait", value=stats.waiting + stats.held)
            yield GaugeMetricFamily("tgi_batch_current_size", "Requests in the batch", value=stats.running)


def _histogram(registry: CollectorRegistry, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, what, registry=registry, buckets=buckets)

"""The shim's own /metrics, in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inflight.runtime.engine.stats import CoreStats
from inflight.triton_backend.dialects.tgi.metrics import TgiMetrics

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class ShimMetrics:
    """Counts of one server; a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._tgi = TgiMetrics(registry)
        self._answers = Counter("inflight_http_responses", "Answers", ["path", "status"], registry=registry)
        self._running = Gauge("inflight_requests_running", "Requests being generated", registry=registry)
        self._prompt_tokens = Counter("inflight_prompt_tokens", "Prompt tokens taken in", registry=registry)
        self._tokens = Counter("inflight_generation_tokens", "Tokens generated", registry=registry)
        self._first_token = Histogram(
            "inflight_time_to_first_token_seconds", "Until the first token", registry=registry, buckets=_SECONDS
        )
        self._duration = Histogram(
            "inflight_request_duration_seconds", "Until the last token", registry=registry, buckets=_SECONDS
        )

    def answered(self, path: str, status: int) -> None:
        self._answers.labels(path, str(status)).inc()

    def request_started(self, prompt_tokens: int, max_tokens: int = 0) -> None:
        self._running.inc()
        self._prompt_tokens.inc(prompt_tokens)
        self._tgi.request_started(prompt_tokens, max_tokens)

    def first_token(self, started: float) -> None:
        """`started`: time.monotonic() when the request began."""
        self._first_token.observe(time.monotonic() - started)

    def tokens_generated(self, count: int) -> None:
        self._tokens.inc(count)

    def request_ended(self, started: float, tokens: int = 0, succeeded: bool = True) -> None:
        """`tokens` were generated; one that was cancelled has not succeeded."""
        seconds = time.monotonic() - started
        self._running.dec()
        self._duration.observe(seconds)
        self._tgi.request_ended(seconds, tokens, succeeded)

    def watch_engine(self, stats: Callable[[], CoreStats | None]) -> None:
        """Include the engine's statistics, read at each request for /metrics."""
        self._registry.register(_EngineCollector(stats))
        self._tgi.watch_engine(stats)

    def collect(self) -> Iterable[Metric]:
        """Each metric with its samples."""
        return self._registry.collect()

    def text(self) -> bytes:
        """All of it, in the text format."""
        return generate_latest(self._registry)


class CountAnswers:
    """ASGI middleware: counts answers by route and status. It passes messages through untouched, so that a client's
    disconnection still reaches the route."""

    def __init__(self, app: ASGIApp, metrics: ShimMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "unknown")
                self._metrics.answered(path, message["status"])
            await send(message)

        await self._app(scope, receive, counting_send if scope["type"] == "http" else send)


class _EngineCollector(Collector):
    def __init__(self, stats: Callable[[], CoreStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        if stats is None:
            return
        values = asdict(stats)
        values |= {f"offload_{name}": value for name, value in (values["offload"] or {}).items()}
        for name, value in values.items():
            if isinstance(value, (int, float)):
                yield GaugeMetricFamily(f"inflight_engine_{name}", name.replace("_", " "), value=value)

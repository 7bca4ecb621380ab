"""From the outcomes of a run to its figures, under the names of `vllm bench serve`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inflight.benchmark.distribution import deviation, mean, percentile, rank_name
from inflight.benchmark.serve.options import Metric, ServeBenchOptions
from inflight.benchmark.serve.requests import Outcome
from inflight.benchmark.serve.run import Run


def summarize(run: Run, options: ServeBenchOptions) -> dict[str, Any]:
    """Rates are per second of the run, latencies in milliseconds; failed requests count in `failed` alone.

    `client_cpu_seconds` is what the measuring process used of the processor, and `output_throughput_client_free` the
    rate without it: tokens / (duration - client_cpu_seconds / cores), the time that was left to the server where both
    share `cores` cores. Where the client has a machine of its own, `output_throughput` is the figure.
    """
    done = [outcome for outcome in run.outcomes if outcome.error is None]
    inputs, outputs = sum(each.prompt_len for each in done), sum(each.output_tokens for each in done)
    seconds = run.duration
    values: dict[str, Any] = {
        "duration": seconds,
        "completed": len(done),
        "failed": len(run.outcomes) - len(done),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(done) / seconds,
        "request_goodput": sum(_is_good(each, options.goodput) for each in done) / seconds if options.goodput else None,
        "output_throughput": outputs / seconds,
        "total_token_throughput": (inputs + outputs) / seconds,
        "max_concurrent_requests": run.max_concurrent,
        "client_cpu_seconds": run.client_cpu_seconds,
        "cores": run.cores,
        "output_throughput_client_free": outputs / max(seconds - run.client_cpu_seconds / run.cores, 1e-9),
    }
    metrics: tuple[Metric, ...] = ("ttft", "tpot", "itl", "e2el")
    for metric in metrics:
        if metric in options.percentile_metrics or metric != "e2el":
            values |= _distribution(metric, _samples(metric, done), options.metric_percentiles)
    return values


def _samples(metric: Metric, outcomes: Sequence[Outcome]) -> list[float]:
    """Milliseconds. Outputs of one token have no time per output token."""
    if metric == "itl":
        return [1e3 * gap for each in outcomes for gap in each.itl]
    if metric == "tpot":
        return [1e3 * each.tpot for each in outcomes if each.output_tokens > 1]
    return [1e3 * (each.ttft if metric == "ttft" else each.latency) for each in outcomes]


def _distribution(metric: Metric, samples: Sequence[float], ranks: Sequence[float]) -> dict[str, float]:
    values = {
        f"mean_{metric}_ms": mean(samples),
        f"median_{metric}_ms": percentile(samples, 50),
        f"std_{metric}_ms": deviation(samples),
    }
    return values | {f"p{rank_name(rank)}_{metric}_ms": percentile(samples, rank) for rank in ranks}


def _is_good(outcome: Outcome, limits: dict[Metric, float]) -> bool:
    """Whether the request kept every limit; between tokens it is the mean that counts, as in DistServe's goodput."""
    measured: dict[Metric, float] = {
        "ttft": outcome.ttft,
        "tpot": outcome.tpot,
        "itl": mean(outcome.itl) if outcome.itl else 0.0,
        "e2el": outcome.latency,
    }
    return all(1e3 * measured[metric] <= limit for metric, limit in limits.items())

"""What `inflight bench serve` prints: the lines that `vllm bench serve` prints, which scripts read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflight.benchmark.distribution import rank_name

if TYPE_CHECKING:
    from inflight.benchmark.serve.session import ServeBenchResult

_WIDTH = 50
_TITLES = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
}


def print_result(result: ServeBenchResult) -> None:
    figures, options = result.figures, result.options
    print(" Serving Benchmark Result ".center(_WIDTH, "="))
    _line("Successful requests:", figures["completed"])
    _line("Failed requests:", figures["failed"])
    _line("Maximum concurrent requests:", figures["max_concurrent_requests"])
    _line("Benchmark duration (s):", figures["duration"])
    _line("Total input tokens:", figures["total_input_tokens"])
    _line("Total generated tokens:", figures["total_output_tokens"])
    _line("Request throughput (req/s):", figures["request_throughput"])
    if options.goodput:
        _line("Request goodput (req/s):", figures["request_goodput"])
    _line("Output token throughput (tok/s):", figures["output_throughput"])
    _line("Total token throughput (tok/s):", figures["total_token_throughput"])
    print("The clients' own processor time".center(_WIDTH, "-"))
    _line("Client CPU time (s):", figures["client_cpu_seconds"])
    _line(f"Output tok/s without it, {figures['cores']} cores:", figures["output_throughput_client_free"])
    for metric in options.percentile_metrics:
        short, title = _TITLES[metric]
        print(title.center(_WIDTH, "-"))
        _line(f"Mean {short} (ms):", figures[f"mean_{metric}_ms"])
        _line(f"Median {short} (ms):", figures[f"median_{metric}_ms"])
        for rank in options.metric_percentiles:
            _line(f"P{rank_name(rank)} {short} (ms):", figures[f"p{rank_name(rank)}_{metric}_ms"])
    print("=" * _WIDTH)
    errors = [outcome.error for outcome in result.run.outcomes if outcome.error is not None]
    if errors:
        print(f"{len(errors)} requests failed; the first: {errors[0]}")


def _line(name: str, value: float) -> None:
    print(f"{name:<40} {value:<10.2f}" if isinstance(value, float) else f"{name:<40} {value:<10}")

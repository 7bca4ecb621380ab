"""The tables that `inflight bench` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from inflight.benchmark.offline.latency import LatencyResult
    from inflight.benchmark.offline.phases import Phase
    from inflight.benchmark.offline.session import Report
    from inflight.benchmark.offline.throughput import ThroughputResult

_output = Console()


def print_latency(report: Report[LatencyResult]) -> None:
    """Two rows per workload: prefill and decode."""
    _print_header(report)
    table = _phase_table("batch", "in + out", "seconds")
    for result in report.results:
        workload, latency = result.workload, result.as_dict()["avg_latency"]
        cells = [str(workload.batch_size), f"{workload.input_len} + {workload.output_len}", f"{latency:.3f}"]
        for name, phase in (("prefill", result.prefill), ("decode", result.decode)):
            if phase.steps:
                table.add_row(*cells, name, *_phase_cells(phase))
                cells = [""] * len(cells)
    _output.print(table)
    _print_profiles(report)


def print_throughput(report: Report[ThroughputResult]) -> None:
    """The totals in the words of `vllm bench throughput`, then the phases."""
    _print_header(report)
    (result,) = report.results
    values = result.as_dict()
    _output.print(
        f"Throughput: {values['requests_per_second']:.2f} requests/s, "
        f"{values['tokens_per_second']:.2f} total tokens/s, "
        f"{values['output_tokens_per_second']:.2f} output tokens/s; "
        f"{_percent(result.share_of_limit)} of the machine's limit",
        soft_wrap=True,
    )
    table = _phase_table()
    for name, phase in (("prefill", result.prefill), ("decode", result.decode)):
        if phase.steps:
            table.add_row(name, *_phase_cells(phase))
    _output.print(table)


def _print_header(report: Report[Any]) -> None:
    _output.print(f"{report.manifest.source.model}, target {report.manifest.target}, {report.threads} threads")
    if report.limits is None:
        _output.print(f"The machine's limits are unknown: {report.limits_unknown}", soft_wrap=True)
    else:
        limits = report.limits
        _output.print(f"Measured limits: reading {limits.read / 1e9:.1f} GB/s; {limits.peaks_text}", soft_wrap=True)
    if report.float_peaks is not None:
        _output.print(f"Checked: {report.float_peaks}", soft_wrap=True)
        for warning in report.float_peaks.warnings():
            _output.print(f"Warning: {warning}.", soft_wrap=True)


def _phase_table(*before: str) -> Table:
    """Milliseconds are of a step; those of Python are what is not the executor's."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in before:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    for name in ("tokens/s", "ms", "p99 ms", "Python", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    return table


def _phase_cells(phase: Phase) -> list[str]:
    values = phase.as_dict()
    steps = [f"{values[name]:.2f}" for name in ("mean_step_ms", "p99_step_ms")]
    python = f"{values['python_step_ms']:.3f}"
    rate = f"{phase.tokens_per_second:,.1f}"
    return [rate, *steps, python, _percent(phase.share_of_limit), phase.bound_by or "-"]


def _print_profiles(report: Report[LatencyResult]) -> None:
    """The operators of every profiled phase, the slowest first."""
    for result in report.results:
        for name, operators in result.profiles.items():
            workload = result.workload
            title = f"{name}, batch {workload.batch_size}, input {workload.input_len}"
            total = sum(operator.seconds for operator in operators) or 1.0
            table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
            for heading in ("operator", "value"):
                table.add_column(heading, no_wrap=True)
            for heading in ("ms", "share", "Gop/s", "GB/s"):
                table.add_column(heading, justify="right", no_wrap=True)
            for operator in operators:
                seconds = operator.seconds or float("nan")
                rates = [f"{operator.flops / seconds / 1e9:.0f}", f"{operator.bytes / seconds / 1e9:.1f}"]
                share = f"{operator.seconds / total:.1%}"
                table.add_row(operator.kind, operator.name, f"{operator.seconds * 1e3:.2f}", share, *rates)
            _output.print(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"

"""The Markdown table of a run."""

from __future__ import annotations

from compare.offline.bounds import ARITHMETIC, bound_seconds
from compare.offline.cells import Cell, Precision
from compare.offline.results import INFLIGHT, Run
from inflight.benchmark.limit_checks import TOLERANCE

MISSING = "–"


def markdown(run: Run) -> str:
    """What was run on what, then a table per precision, then what failed."""
    lines = [f"# {run.shape_name}, {run.threads} threads, {run.date}", ""]
    lines += [f"Machine: {', '.join(f'{name} {value}' for name, value in run.machine.items())}."]
    lines += [f"Versions: {'; '.join(run.versions.values())}.", ""]
    for precision in run.samples:
        lines += _section(run, precision)
    if run.failures:
        lines += ["Failed:", ""]
        lines += [f"* {one.engine}, {one.precision}, {one.where}: {one.error}" for one in run.failures]
    lines += [f"Warning: {text}." for text in run.warnings]
    return "\n".join(lines) + "\n"


def _section(run: Run, precision: Precision) -> list[str]:
    limits = run.limits_of(precision)
    peak = limits.peak(ARITHMETIC[precision])
    names = list(run.weights[precision])
    weights = "; ".join(f"{name}: {text}" for name, text in run.weights[precision].items())
    head = ["cell", "limit", *names, "best peer / inflight", "target", "of the limit", "target"]
    cells = [cell for cell in run.cells if cell.key in run.samples[precision]]
    rows = [_row(run, precision, cell, names) for cell in cells]
    return [
        f"## {precision}",
        "",
        f"{weights}. Limits: {limits.read:.1f} GB/s, {peak:.0f} {ARITHMETIC[precision]} Gop/s; attention at "
        f"{limits.peak('bfloat16'):.0f} bfloat16 Gop/s.",
        "",
        _line(head),
        _line(["---"] * len(head)),
        *map(_line, rows),
        "",
        *_same_files(run, precision, cells),
    ]


def _same_files(run: Run, precision: Precision, cells: list[Cell]) -> list[str]:
    """How many times as fast inflight is as the peer that reads the same file."""
    found = {cell.title: run.same_file_ratios(precision, cell) for cell in cells}
    pairs = sorted({pair for ratios in found.values() for pair in ratios})
    if not pairs:
        return []
    lines = [["the same file", *(f"{theirs} / {ours}" for ours, theirs in pairs)], ["---"] * (len(pairs) + 1)]
    for title, ratios in found.items():
        lines.append([title, *(f"{ratios[pair]:.2f}" if pair in ratios else MISSING for pair in pairs)])
    return [*map(_line, lines), ""]


def _row(run: Run, precision: Precision, cell: Cell, names: list[str]) -> list[str]:
    best, ratio = run.best_peer(precision, cell), run.ratio(precision, cell)
    figures = []
    for name in names:
        text = _figure(cell, run.median(precision, cell, name))
        figures.append(f"**{text}**" if best and name == best[0] else text)
    bound = bound_seconds(run.shape, cell, precision, run.limits_of(precision)) if cell.kind == "throughput" else None
    target, wanted_share = cell.targets.get(precision), cell.shares.get(precision)
    return [
        cell.title,
        _figure(cell, bound),
        *figures,
        MISSING if ratio is None else f"{ratio:.2f}{_mark(ratio, target)}",
        MISSING if target is None else f"{target:.2f}",
        _share(run.share(precision, cell, INFLIGHT), wanted_share),
        MISSING if wanted_share is None else f"{wanted_share:.0%}",
    ]


def _share(share: float | None, wanted: float | None) -> str:
    """What is above the limit is no success: the limit is wrong."""
    if share is None:
        return MISSING
    return f"{share:.0%} ✗ (wrong limit)" if share > TOLERANCE else f"{share:.0%}{_mark(share, wanted)}"


def _mark(value: float, target: float | None) -> str:
    return "" if target is None else " ✓" if value >= target else " ✗"


def _figure(cell: Cell, value: float | None) -> str:
    """In the unit of the cell's title."""
    if value is None:
        return MISSING
    if cell.kind == "memory":
        return f"{value / 2**20:.0f}"
    return f"{cell.counted / value:.1f}" if cell.counted else f"{value:.2f}"


def _line(fields: list[str]) -> str:
    return "| " + " | ".join(fields) + " |"

"""The roofline of the machine with a point per engine and cell, one panel per precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compare.offline.bounds import ARITHMETIC, total_work
from compare.offline.cells import Precision
from compare.offline.results import INFLIGHT, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osD^vPX*"


def draw(run: Run, path: Path) -> None:
    """Operations per byte of a cell against the operations a second that each engine reached, with logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    precisions = list(run.samples)
    figure, panels = pyplot.subplots(1, len(precisions), figsize=(6 * len(precisions), 5), squeeze=False, sharey=True)
    for axes, precision in zip(panels[0], precisions, strict=True):
        _panel(axes, run, precision)
    panels[0][0].set_ylabel("Gop/s")
    panels[0][-1].legend(*_legend(run), fontsize=8, loc="lower right")
    figure.suptitle(f"{run.shape_name}, {run.threads} threads, {run.machine.get('processor', '')}, {run.date}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _panel(axes: Axes, run: Run, precision: Precision) -> None:
    limits = run.limits_of(precision)
    intensity = np.logspace(-1, 4, 200)
    roof = [limits.roof(precision, each) for each in intensity]
    peak = roof[-1]
    axes.loglog(intensity, roof, color="black", linewidth=1.2)
    axes.text(2, limits.read * 2.6, f"{limits.read:.0f} GB/s", rotation=35, fontsize=8)
    axes.text(1500, peak * 1.06, f"{peak:.0f} {ARITHMETIC[precision]} Gop/s", fontsize=8, ha="center")
    for cell in run.cells:
        if cell.kind != "throughput":
            continue
        work = total_work(run.shape, cell, precision)
        x = work.flops / work.bytes
        reached = []
        for name in run.weights[precision]:
            seconds = run.median(precision, cell, name)
            if seconds:
                reached.append(work.flops / seconds / 1e9)
                axes.plot([x], reached[-1:], **_style(run, name))
        if reached:
            label = cell.title.rsplit(",", 1)[0]
            axes.annotate(label, (x, min(reached)), (0, -14), textcoords="offset points", fontsize=7, ha="center")
    axes.set_xlabel("operations per byte")
    axes.set_title(precision)
    axes.grid(True, which="major", alpha=0.3)


def _style(run: Run, name: str) -> dict[str, Any]:
    number = list(run.versions).index(name) if name in run.versions else 0
    ours = name == INFLIGHT
    return {
        "marker": MARKERS[number % len(MARKERS)],
        "color": f"C{number}",
        "markersize": 9 if ours else 6,
        "linestyle": "none",
        "zorder": 3 if ours else 2,
    }


def _legend(run: Run) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], **_style(run, name)) for name in run.versions], list(run.versions)

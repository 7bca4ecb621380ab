"""Tokens per second of every way beside the offline engine, and who kept the processors busy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compare.serving.record import OFFLINE, ServeRun
from compare.serving.report import TARGET, busy_cores, measured_ways

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(run: ServeRun, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(14, 4.5))
    _rates(left, run)
    _processors(right, run)
    title = f"{run.shape_name}, {run.precision}, {run.workload.clients} clients, {run.threads} threads"
    figure.suptitle(f"{title}, {run.machine.get('processor', '')}, {run.date}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _rates(axes: Axes, run: ServeRun) -> None:
    offline = run.median(OFFLINE, run.rate)
    ways = measured_ways(run)
    places = range(len(ways))
    axes.bar(places, [run.median(key, run.rate_without_clients) for key, _ in ways], 0.6, label="without the clients")
    axes.bar(places, [run.median(key, run.rate) for key, _ in ways], 0.4, label="as measured")
    axes.axhline(offline, color="black", linewidth=1.2, label="offline engine")
    axes.axhline(TARGET * offline, color="black", linestyle="--", linewidth=0.8, label=f"{TARGET:.0%} of it")
    axes.set_xticks(places, [title for _, title in ways], fontsize=8)
    axes.set_ylabel("output tokens per second")
    axes.legend(fontsize=8, loc="lower center")


def _processors(axes: Axes, run: ServeRun) -> None:
    busy = busy_cores(run)
    titles = {OFFLINE: "offline engine", **dict(measured_ways(run))}
    keys = [key for key in titles if key in busy]
    bottom = [0.0] * len(keys)
    for role in sorted({role for each in busy.values() for role in each}):
        heights = [busy[key].get(role, 0.0) for key in keys]
        axes.bar(range(len(keys)), heights, 0.6, bottom=bottom, label=role)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xticks(range(len(keys)), [titles[key] for key in keys], fontsize=8)
    axes.set_ylabel("busy cores")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))

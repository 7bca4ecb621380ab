"""JSON, a Markdown table and a plot of one benchmark run."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def bound_seconds(result: Result, cell: dict[str, Any]) -> float:
    """The least time the machine's limits allow: prefill at the arithmetic peak, then decode steps at the slower of
    arithmetic and memory."""
    work, limits = result["work"], result["limits"]
    peak = limits.get(f"{result['dtype']}_Gop_per_s", limits["float32_Gop_per_s"]) * 1e9
    bandwidth = limits["read_GB_per_s"] * 1e9
    users, prompt, steps = cell["users"], cell["prompt"], cell["output"] - 1
    row = work["layer_flops_per_token"] + work["logits_flops_per_row"]
    prefill = users * (prompt * work["layer_flops_per_token"] + work["logits_flops_per_row"]) / peak
    context = prompt + cell["output"] / 2
    bytes_per_step = work["weight_bytes_per_step"] + users * context * work["kv_bytes_per_token"]
    return float(prefill + steps * max(users * row / peak, bytes_per_step / bandwidth))


def table(result: Result) -> str:
    """Medians in seconds, the ratio to the best peer (above 1: inflight is faster), and the share of the limit."""
    names = list(result["versions"])
    peers = [name for name in names if name != "inflight"]
    lines = [
        "| cell | limit | " + " | ".join(f"{name}, s" for name in names) + " | best peer / inflight | share of limit |",
        "| --- |" + " --- |" * (len(names) + 3),
    ]
    for cell in result["cells"]:
        medians = {name: statistics.median(result["seconds"][cell["name"]][name]) for name in names}
        ratio = min(medians[name] for name in peers) / medians["inflight"]
        limit = bound_seconds(result, cell)
        figures = " | ".join(f"{medians[name]:.3f}" for name in names)
        share = limit / medians["inflight"]
        lines.append(f"| {cell['name']} | {limit:.3f} | {figures} | {ratio:.2f} | {share:.0%} |")
    return "\n".join(lines) + "\n"


def plot(result: Result, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(result["cells"]), figsize=(3.2 * len(result["cells"]), 3.6))
    for axis, cell in zip(axes, result["cells"], strict=True):
        seconds = result["seconds"][cell["name"]]
        axis.bar(list(seconds), [statistics.median(values) for values in seconds.values()], color="#4878a8")
        axis.axhline(bound_seconds(result, cell), color="#c44e52", linestyle="--", label="machine's limit")
        axis.set_title(cell["name"], fontsize=9)
        axis.tick_params(axis="x", labelrotation=20)
    axes[0].set_ylabel("seconds (less is better)")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{result['shape']}, {result['dtype']}, {result['machine']['threads']} threads, {result['date']}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write_report(result: Result, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "cpu.json").write_text(json.dumps(result, indent=2))
    (out / "cpu.md").write_text(table(result))
    plot(result, out / "cpu.png")
    print(table(result))
    print(f"written: {out}/cpu.json, cpu.md, cpu.png")

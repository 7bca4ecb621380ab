"""The Markdown tables of a run."""

from __future__ import annotations

from statistics import median

from compare.serving.record import LATENCIES, OFFLINE, RANKS, ServeRun
from compare.serving.ways import WAYS

TARGET = 0.9
CLIENTS = "clients"


def markdown(run: ServeRun) -> str:
    """What was run on what, the speeds and latencies, the processors' time, then what failed."""
    work = run.workload
    lines = [
        f"# {run.shape_name}, {run.precision}, {run.threads} threads, {work.clients} clients, {run.date}",
        "",
        f"Machine: {', '.join(f'{name} {value}' for name, value in run.machine.items())}.",
        f"{work.clients} streams at once of {work.prompt} tokens in and {work.output} out; medians of "
        f"{len(run.samples[OFFLINE])} rounds.",
        "",
        *_speeds(run),
        "",
        "Cores that each process kept busy while its round ran:",
        "",
        *_processors(run),
        "",
    ]
    if run.failures:
        lines += ["Failed:", "", *(f"* {name}: {error}" for name, error in run.failures.items()), ""]
    return "\n".join(lines)


def measured_ways(run: ServeRun) -> list[tuple[str, str]]:
    """Key and title of the ways that have samples."""
    return [(way.key, way.title) for way in WAYS if way.key in run.samples]


def _speeds(run: ServeRun) -> list[str]:
    heads = [f"{name.upper()} {'/'.join(RANKS)}, ms" for name in LATENCIES]
    head = ["way", "tok/s", "without the clients", "of offline", "of offline, without the clients", *heads]
    offline = run.median(OFFLINE, run.rate)
    rows = [["offline engine", f"{offline:.0f}", "", "", "", *[""] * len(LATENCIES)]]
    for key, title in measured_ways(run):
        share = run.share_of_offline(key)
        rows.append(
            [
                title,
                f"{run.median(key, run.rate):.0f}",
                f"{run.median(key, run.rate_without_clients):.0f}",
                f"{run.share_of_offline(key, without_clients=False):.0%}",
                f"{share:.0%} {'✓' if share >= TARGET else '✗'}",
                *(_latency(run, key, name) for name in LATENCIES),
            ]
        )
    return _table(head, rows)


def _latency(run: ServeRun, key: str, name: str) -> str:
    medians = [median(sample.latencies[f"{rank}_{name}"] for sample in run.samples[key]) for rank in RANKS]
    return " / ".join(f"{value:,.0f}" for value in medians)


def busy_cores(run: ServeRun) -> dict[str, dict[str, float]]:
    """busy[way][process]: processor seconds by seconds, the clients among the processes."""
    busy: dict[str, dict[str, float]] = {}
    for key, samples in run.samples.items():
        roles = sorted({role for sample in samples for role in sample.cpu})
        busy[key] = {role: median(sample.cpu.get(role, 0.0) / sample.seconds for sample in samples) for role in roles}
        if key != OFFLINE:
            busy[key][CLIENTS] = run.median(key, lambda sample: sample.client_cpu / sample.seconds)
    return busy


def _processors(run: ServeRun) -> list[str]:
    busy = busy_cores(run)
    roles = sorted({role for each in busy.values() for role in each}, key=lambda role: (role == CLIENTS, role))
    titles = {OFFLINE: "offline engine", **dict(measured_ways(run))}
    rows = [
        [titles[key], *(f"{each[role]:.2f}" if role in each else "" for role in roles)] for key, each in busy.items()
    ]
    idle = run.median(OFFLINE, lambda sample: sample.idle_cpu / sample.seconds)
    return [*_table(["way", *roles], rows), "", f"All servers together while they had nothing to do: {idle:.3f}."]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(fields) + " |" for fields in [head, ["---"] * len(head), *rows]]

"""The command behind scripts/compare/cpu."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from datetime import date
from pathlib import Path

from compare.engines import ON_REQUEST, all_engines
from compare.engines.base import Engine, Model
from compare.install import ENGINES, install
from compare.offline.bounds import Shape
from compare.offline.cells import CELLS, PRECISIONS, Cell, Precision, capacity
from compare.offline.measure import Bench, estimated_seconds
from compare.offline.plot import draw
from compare.offline.report import markdown
from compare.offline.results import INFLIGHT, Run
from compare.shapes import SHAPES, model_directory
from inflight.benchmark.limit_checks import check_shares
from inflight.benchmark.machine import machine_facts
from inflight.benchmark.machine_limits import measure_limits
from inflight.errors import InflightError
from inflight.files.cache import user_cache_dir
from inflight.machine.resources import usable_cores
from inflight.progress import console

EPILOG = """\
examples:
  scripts/compare/cpu --install                        the peers, each in an environment of its own (about 15 minutes)
  scripts/compare/cpu                                  the whole table of one shape
  scripts/compare/cpu --cells prefill decode --precisions bf16 --rounds 2
  scripts/compare/cpu --engines inflight llama.cpp --shape demo
  scripts/compare/cpu --redraw bench-results/cpu-demo.json   table and plot of an earlier run

Every engine has a process of its own and is stopped while another one computes. Rounds alternate between the engines
on the same random prompts; the table holds medians, and ratios of medians. Greedy, end tokens ignored, no prefix
reuse. Ctrl-C ends the run and keeps what is finished. Only ratios of one run mean anything on a shared machine.
"""


def main() -> int:
    options = _parser().parse_args()
    try:
        if options.install is not None:
            return install(options.install or list(ENGINES), options.peers)
        if options.redraw:
            return _write(Run.read(options.redraw), options.redraw.with_suffix(""))
        return _measure(options)
    except (InflightError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    cache = user_cache_dir()
    parser = argparse.ArgumentParser(
        prog="scripts/compare/cpu",
        description="Measure inflight beside its peers on this CPU: JSON, a table and a plot.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    keys, names = [cell.key for cell in CELLS], list(all_engines(cache))
    add("--shape", choices=SHAPES, default="qwen2-0.5b", help="of the model: random weights, or the demo model")
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="all of them by default")
    add("--cells", nargs="+", choices=keys, default=keys, metavar="CELL", help=f"of {', '.join(keys)}")
    add(
        "--engines",
        nargs="+",
        choices=names,
        metavar="ENGINE",
        help=f"of {', '.join(names)}; by default those installed, without {', '.join(ON_REQUEST)}",
    )
    add("--rounds", type=int, default=5, help="alternating rounds after a warm-up (default 5)")
    add("--threads", type=int, default=usable_cores(), help="of every engine (default: every core)")
    add("--install", nargs="*", choices=ENGINES, metavar="PEER", help=f"of {', '.join(ENGINES)}; then stop")
    add("--prepare", action="store_true", help="only convert the model for every engine, and stop")
    add("--peers", type=Path, default=cache / "bench-peers", help="where the peers are installed (%(default)s)")
    add("--models", type=Path, default=cache / "bench", help="where models and conversions are kept (%(default)s)")
    add("--out", type=Path, default=Path("bench-results"), help="where the report is written (%(default)s)")
    add("--redraw", type=Path, metavar="JSON", help="write the table and the plot of an earlier run again")
    return parser


def _chosen_engines(options: argparse.Namespace) -> list[Engine]:
    engines = all_engines(options.peers)
    if options.engines:
        missing = [name for name in options.engines if not engines[name].installed()]
        if missing:
            raise InflightError(f"not installed below {options.peers}: {', '.join(missing)}.", "Use --install first.")
        return [engines[name] for name in options.engines]
    return [engine for name, engine in engines.items() if name not in ON_REQUEST and engine.installed()]


def _measure(options: argparse.Namespace) -> int:
    engines = _chosen_engines(options)
    with console.status("writing the model (once)"):
        directory = model_directory(options.shape, options.models)
    config = json.loads((directory / "config.json").read_text())
    cells: list[Cell] = [cell.fitted(config["max_position_embeddings"]) for cell in CELLS if cell.key in options.cells]
    model = Model(directory, Shape.read(directory), options.models / options.shape)
    facts = machine_facts()
    run = Run(date.today().isoformat(), facts, options.threads, options.shape, model.shape, cells)
    if options.prepare:
        return _prepare(run, model, config["vocab_size"], options.precisions, engines)
    limits = measure_limits(options.threads).as_dict()
    print("limits now:", ", ".join(f"{name} {value:.0f}" for name, value in limits.items()))
    run.limits = {precision: [limits] for precision in options.precisions}
    guess = sum(estimated_seconds(run, precision, engines, options.rounds) for precision in options.precisions)
    print(f"{', '.join(engine.name for engine in engines)}: about {guess / 60:.0f} minutes, conversions not counted")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with console.status("starting") as status:
            bench = Bench(run, model, config["vocab_size"], options.rounds, status.update)
            for precision in options.precisions:
                bench.measure(precision, engines, capacity(tuple(cells)))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("interrupted: the report holds what was finished")
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"cpu-{options.shape}"
    run.write(Path(f"{stem}.json"))
    return _write(run, stem)


def _prepare(run: Run, model: Model, vocabulary: int, precisions: list[Precision], engines: list[Engine]) -> int:
    with console.status("") as status:
        bench = Bench(run, model, vocabulary, 0, status.update)
        for precision in precisions:
            bench.prepare(precision, engines)
    print(f"kept in {model.cache}")
    return 1 if run.failures else 0


def _write(run: Run, stem: Path) -> int:
    if not run.samples:
        print("nothing was measured", file=sys.stderr)
        return 1
    text = markdown(run)
    Path(f"{stem}.md").write_text(text)
    draw(run, Path(f"{stem}.png"))
    print(text)
    print(f"written: {stem}.json, .md, .png")
    check_shares(run.shares())
    return 0 if not any(failure.engine == INFLIGHT for failure in run.failures) else 1


if __name__ == "__main__":
    sys.exit(main())

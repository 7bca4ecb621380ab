"""The command behind scripts/compare/serve."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from compare.engines.base import Model
from compare.engines.inflight import Inflight
from compare.offline.bounds import Shape
from compare.offline.cells import PRECISIONS, Capacity
from compare.offline.worker_process import EngineFailed
from compare.serving.plot import draw
from compare.serving.record import OFFLINE, ServeRun
from compare.serving.report import markdown
from compare.serving.rounds import Rounds
from compare.serving.ways import WAYS, Workload
from compare.shapes import SHAPES, model_directory
from inflight.benchmark.machine import machine_facts
from inflight.errors import InflightError
from inflight.files.cache import user_cache_dir
from inflight.machine.resources import usable_cores
from inflight.progress import console

EPILOG = """\
examples:
  scripts/compare/serve                                32 clients of the bf16 model, every way, 5 rounds
  scripts/compare/serve --ways embedded --rounds 2 --clients 8
  scripts/compare/serve --redraw bench-results/serve-qwen2-0.5b.json

The servers are started by `inflight serve` and measured by `inflight bench serve`, a process of its own. In every round
the offline engine and each way get the same random prompts. "without the clients" takes their processor time off:
tokens / (seconds - client CPU seconds / cores), since clients and server share the cores. Prefix reuse is off.
"""


def main() -> int:
    options = _parser().parse_args()
    try:
        if options.redraw:
            return _write(ServeRun.read(options.redraw), options.redraw.with_suffix(""))
        return _measure(options)
    except (InflightError, EngineFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    cache, keys = user_cache_dir(), [way.key for way in WAYS]
    parser = argparse.ArgumentParser(
        prog="scripts/compare/serve",
        description="Streaming clients through every way to the engine, beside the offline engine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="qwen2-0.5b", help="of the model: random weights, or the demo model")
    add("--precision", choices=PRECISIONS, default="bf16")
    add("--engine", type=Path, metavar="DIR", help="an engine that exists, instead of --shape and --precision")
    add("--ways", nargs="+", choices=keys, default=keys, metavar="WAY", help=f"of {', '.join(keys)}")
    add("--clients", type=int, default=32, help="requests at once (default 32)")
    add("--prompt", type=int, default=128, metavar="TOKENS", help="of each prompt (default 128)")
    add("--output", type=int, default=64, metavar="TOKENS", help="of each answer (default 64)")
    add("--rounds", type=int, default=5, help="alternating rounds after a warm-up (default 5)")
    add("--threads", type=int, default=usable_cores(), help="of the engine (default: every core)")
    add("--models", type=Path, default=cache / "bench", help="where models and conversions are kept (%(default)s)")
    add("--out", type=Path, default=Path("bench-results"), help="where the report is written (%(default)s)")
    add("--redraw", type=Path, metavar="JSON", help="write the tables and the plot of an earlier run again")
    return parser


def _measure(options: argparse.Namespace) -> int:
    program = Path(sys.executable).with_name("inflight")
    workload = Workload(options.clients, options.prompt, options.output)
    ways = [way for way in WAYS if way.key in options.ways]
    with console.status("preparing the engine (once)") as status:
        directory = model_directory(options.shape, options.models)
        model = Model(directory, Shape.read(directory), options.models / options.shape)
        inflight = Inflight()
        engine = options.engine or inflight.prepare(model, options.precision)
        name = options.engine.name if options.engine else options.shape
        facts = machine_facts()
        run = ServeRun(
            date.today().isoformat(), facts, usable_cores(), options.threads, name, options.precision, workload
        )
        capacity = Capacity(workload.clients, workload.prompt + workload.output, workload.kv_tokens)
        offline = inflight.worker(engine, model, capacity, options.threads)
        try:
            Rounds(run, program, engine, model.cache / "logs", status.update).measure(ways, offline, options.rounds)
        except KeyboardInterrupt:
            print("interrupted: the report holds the rounds that were finished")
        except EngineFailed as error:
            print(f"error: {error}; the report holds the rounds that were finished", file=sys.stderr)
            run.failures[OFFLINE] = str(error)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"serve-{name}"
    run.write(Path(f"{stem}.json"))
    return _write(run, stem)


def _write(run: ServeRun, stem: Path) -> int:
    if OFFLINE not in run.samples:
        print("nothing was measured", file=sys.stderr)
        return 1
    text = markdown(run)
    Path(f"{stem}.md").write_text(text)
    draw(run, Path(f"{stem}.png"))
    print(text)
    print(f"written: {stem}.json, .md, .png")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command behind scripts/faults."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from inflight.triton_backend.launch.installation import find_triton
from tests.engines.serving_engines import write_null_engine
from tests.faults.commands import NAMES, commands
from tests.faults.input import damage_files, mutate_bodies
from tests.faults.model import built_model
from tests.faults.report import Row, table, write
from tests.faults.served import MODES
from tests.faults.suite import LONG, SHORT, disturb_clients, disturb_command, disturb_processes

PARTS = ("clients", "processes", "bodies", "commands", "files")
_MAX_SEQ_LEN = 1 << 16


def main() -> int:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # No server outlives the suite.
    size = SHORT if options.short else LONG
    size = replace(size, clients=options.clients or size.clients, commands=options.times or size.commands)
    seed = options.seed or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with --seed {seed}", flush=True)
    rng, rows, scratch = np.random.default_rng(seed), [], Path(tempfile.mkdtemp(prefix="inflight-faults-"))

    def part(run: Callable[[], list[Row]]) -> None:
        found = run()
        rows.extend(found)
        print(table(found), flush=True)

    engine = write_null_engine(scratch / "engine", max_seq_len=_MAX_SEQ_LEN)
    if "triton" in options.modes and isinstance(reason := find_triton(), str):
        print(f"without Triton: {reason}")
        options.modes = [mode for mode in options.modes if mode != "triton"]
    for name, disturb in (("clients", disturb_clients), ("processes", disturb_processes)):
        for mode in options.modes if name in options.parts else []:
            part(lambda: asyncio.run(disturb(mode, engine, scratch / f"{name}-{mode}", size, rng)))  # noqa: B023
    if "commands" in options.parts:
        model, built = built_model(scratch / "model", int(rng.integers(1 << 30)))
        for command in commands(model, *built):
            if command.name in options.commands:
                part(lambda: disturb_command(command, scratch / command.name, size, rng))  # noqa: B023
    if "bodies" in options.parts and options.modes:
        part(lambda: mutate_bodies(options.modes, scratch / "bodies", size.bodies, rng))
    if "files" in options.parts:
        part(lambda: damage_files(scratch / "files", size.files, rng))
    if options.json is not None:
        write(rows, seed, options.json)
    failed = [row for row in rows if not row.passed]
    if len(options.modes) + len(options.parts) > 2:
        print(table(rows))
    if failed:
        print(f"logs: {scratch}")
    else:
        shutil.rmtree(scratch)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Servers and commands under faults: slow and "
        "leaving clients, killed processes, interrupts, full disks. Exit code 1 when a "
        "check fails.",
    )
    parser.add_argument("--short", action="store_true", help="as much as the tests do: 300 clients in place of 10,000")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all of them by default")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="both by default")
    parser.add_argument("--commands", nargs="+", choices=NAMES, default=list(NAMES), help="all of them by default")
    parser.add_argument("--clients", type=int, help="clients that connect and leave")
    parser.add_argument("--times", type=int, help="interrupts of each command and of serve, and full disks")
    parser.add_argument("--seed", type=int, default=0, help="repeat a run that printed this seed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the checks to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Commands that are interrupted at any moment, or whose disk is full: their output is complete or absent."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faults.report import Row
from tests.patience import PATIENCE_S

# A shell shows 130 for both: the command's own exit, and the signal's when all was done.
_INTERRUPTED = (128 + signal.SIGINT, -signal.SIGINT)
# Until it has read this line, the interpreter is Python's own, with Python's own answer to an interrupt.
COMMAND = (
    "import os, sys; from inflight.cli.main import main; "
    "pipe = int(sys.argv.pop(1)); os.write(pipe, b'.'); os.close(pipe); main()"
)


@dataclass(frozen=True)
class Command:
    """`words` with the output directory at the end where it `writes` one."""

    name: str
    words: tuple[str, ...]
    writes: bool


@dataclass(frozen=True)
class Ended:
    code: int | None
    shown: str
    seconds: float


NAMES = ("convert", "build-engine", "generate")


def commands(model: Path, checkpoint: Path, engine: Path) -> list[Command]:
    """Of a model, and what was made of it without a disturbance."""
    convert, build, generate = NAMES
    return [
        Command(convert, (convert, str(model), "-o"), True),
        Command(build, (build, "--checkpoint-dir", str(checkpoint), "-o"), True),
        Command(generate, (generate, str(engine), "fox", "--max-tokens", "200", "--ignore-eos"), False),
    ]


def run(
    command: Command, scratch: Path, *, interrupt_after: float | None = None, prepare: Callable[[], None] | None = None
) -> Ended:
    """Run it in an empty `scratch`/work, with its own folder for temporary files. `prepare` runs in the process."""
    work, temporary = scratch / "work", scratch / "tmp"
    for directory in (work, temporary):
        directory.mkdir(parents=True)
    begun, begins = os.pipe()
    words = [sys.executable, "-c", COMMAND, str(begins), *command.words]
    words += [str(work / "out")] if command.writes else []
    environment = {**os.environ, "TMPDIR": str(temporary)}
    log = scratch / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            env=environment,
            cwd=work,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=prepare,
            pass_fds=[begins],
        )
    os.close(begins)
    os.read(begun, 1)
    os.close(begun)
    start = time.monotonic()
    if interrupt_after is not None:
        try:
            process.wait(interrupt_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # As a terminal does: children hear of it too.
    try:
        code: int | None = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        code = None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Ended(code, log.read_text(errors="replace"), time.monotonic() - start)


def interrupt_often(command: Command, times: int, scratch: Path, rng: np.random.Generator) -> list[Row]:
    """Ctrl-C at random moments of its time."""
    whole = run(command, scratch / "whole")
    assert whole.code == 0, whole.shown
    complete = files(scratch / "whole" / "work")
    faults, codes = [], set()
    for turn in range(times):
        place, after = scratch / str(turn), float(rng.uniform(0, whole.seconds))
        ended = run(command, place, interrupt_after=after)
        codes.add(ended.code)
        found = _faults(ended, place, complete, (0, *_INTERRUPTED))
        faults += [f"{fault} (after {after:.2f} of {whole.seconds:.2f} s)" for fault in found]
    return [
        Row(
            command.name,
            "SIGINT",
            "complete or absent, no traceback",
            not faults,
            "; ".join(faults) or f"{times} times",
        ),
        Row(command.name, "SIGINT", "exit code 0 or 130", codes <= {0, *_INTERRUPTED}, str(sorted(codes, key=str))),
    ]


def fill_disk_often(command: Command, times: int, scratch: Path, rng: np.random.Generator) -> list[Row]:
    """Files that may not grow beyond a random size below that of the largest: a message, and nothing half-written."""
    whole = run(command, scratch / "whole")
    assert whole.code == 0, whole.shown
    complete = files(scratch / "whole" / "work")
    largest, faults = max(complete.values()), []
    for turn in range(times):
        limit = int(rng.integers(1, largest))
        place = scratch / str(turn)
        ended = run(command, place, prepare=lambda most=limit: _limit_files(most))  # type: ignore[misc]
        found = _faults(ended, place, complete, (1,))
        faults += [f"{fault} (files of at most {limit} bytes)" for fault in found]
        if "error:" not in ended.shown:
            faults.append(f"no message at {limit} bytes")
    figures = "; ".join(faults) or f"{times} times, below {largest} bytes"
    return [Row(command.name, "full disk", "an error, nothing half-written", not faults, figures)]


def files(directory: Path) -> dict[str, int]:
    """Path -> size of every file below it."""
    return {str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def _faults(ended: Ended, place: Path, complete: dict[str, int], codes: tuple[int, ...]) -> list[str]:
    faults = []
    if ended.code is None:
        faults.append("it hangs")
    elif ended.code not in codes:
        faults.append(f"exit code {ended.code}: {ended.shown[-200:]!r}")
    if "Traceback" in ended.shown:
        faults.append(f"a traceback: {ended.shown[-300:]!r}")
    found = files(place / "work")
    if found and found != complete:
        faults.append(f"half-written: {sorted(found)[:5]}")
    elif not found and any((place / "work").iterdir()):
        faults.append("an empty directory is left")
    if ended.code == 0 and found != complete:
        faults.append("success without its output")
    if left := sorted(path.name for path in (place / "tmp").iterdir()):
        faults.append(f"temporary files are left: {left[:5]}")
    return faults


def _limit_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

"""What the benchmark wants of an engine: is it there, how a model becomes its own format, how it is started."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compare.offline.bounds import Shape
from compare.offline.cells import Capacity, Precision
from compare.offline.worker_process import Command, EngineFailed, last_line

WORKERS = Path(__file__).resolve().parents[1] / "workers"
CONVERT_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Model:
    """A Hugging Face directory, its sizes, and the folder in which engines keep their conversions of it."""

    directory: Path
    shape: Shape
    cache: Path


class Engine(ABC):
    """One engine of the table.

    name: in the table and on the command line. precisions: what its weights are called in each precision it has.
    """

    name: str
    precisions: Mapping[Precision, str]

    @abstractmethod
    def installed(self) -> bool: ...

    @abstractmethod
    def prepare(self, model: Model, precision: Precision) -> Path:
        """Convert once; the result stays in the model's cache. Raises EngineFailed."""

    @abstractmethod
    def worker(self, prepared: Path, model: Model, capacity: Capacity, threads: int) -> Command:
        """A process that speaks workers/protocol.py."""

    @abstractmethod
    def first_token(self, prepared: Path, prompt: str, threads: int) -> Command:
        """The fastest public way to one token of text: prints nothing on stdout before it."""


def prepared_once(target: Path, write: Callable[[Path], None]) -> Path:
    """`target`, written by `write(scratch path)` if it is not there yet; it appears whole or not at all.

    Of several processes that ask at once, one writes and the others wait for it.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"partial-{target.name}")
    # The file stays: a process that waits for it holds it open, and would lock one that has no name any more.
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        _remove(scratch)
        try:
            write(scratch)
            scratch.rename(target)
        finally:
            _remove(scratch)
    return target


def run_logged(command: Command, log: Path) -> None:
    """Run to the end; raises EngineFailed with the program's last line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        done = subprocess.run(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=command.full_environment(),
            timeout=CONVERT_TIMEOUT_S,
        )
    if done.returncode:
        raise EngineFailed(f"{Path(command.arguments[0]).name}, exit code {done.returncode}: {last_line(log)} ({log})")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

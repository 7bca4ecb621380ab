"""An engine in a process of its own: it computes when asked, and is stopped by the kernel at all other times."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

LOAD_TIMEOUT_S, CALL_TIMEOUT_S, QUIT_TIMEOUT_S = 600, 600, 10


class EngineFailed(Exception):
    """An engine ended, hung or did less than it was asked for; the message is its own last line."""


@dataclass(frozen=True)
class Command:
    """What to start, with what beside this process's environment."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def full_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def last_line(log: Path) -> str:
    """What a program said last, for a report of one line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """A stopped process would not notice that nobody will ask it again, and keep its memory."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class WorkerProcess:
    """Speaks the protocol of workers/protocol.py. The process group is stopped (SIGSTOP) between calls, so that no
    engine's waiting threads take time from the one that is measured."""

    def __init__(self, name: str, command: Command, log: Path) -> None:
        self.name, self._log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command.arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=command.full_environment(),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        try:
            self.version = str(self._answer(LOAD_TIMEOUT_S)["version"])
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    @property
    def pid(self) -> int:
        return self._process.pid

    def measure(self, prompts: list[list[int]], max_tokens: int) -> float:
        """Seconds of one call. Raises EngineFailed; the process is stopped then, too."""
        self._signal(signal.SIGCONT)
        try:
            self._ask({"prompts": prompts, "max_tokens": max_tokens})
            answer = self._answer(CALL_TIMEOUT_S)
        finally:
            self._signal(signal.SIGSTOP)
        expected = len(prompts) * max_tokens
        if answer["tokens"] != expected:
            raise EngineFailed(f"it made {answer['tokens']} tokens; {expected} were asked for")
        return float(answer["seconds"])

    def peak_memory(self) -> int:
        """Bytes: the most resident memory the process ever held, mapped files included."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise EngineFailed("the system does not tell its peak memory")

    def close(self) -> None:
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(QUIT_TIMEOUT_S)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not ready:
            raise EngineFailed(f"no answer within {timeout} s; its log is {self._log}")
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        try:
            return dict(json.loads(line))
        except ValueError:
            raise EngineFailed(f"it answered {line[:100]!r}; its log is {self._log}") from None

    def _failed(self) -> EngineFailed:
        try:
            return EngineFailed(f"exit code {self._process.wait(QUIT_TIMEOUT_S)}: {last_line(self._log)}")
        except subprocess.TimeoutExpired:
            return EngineFailed(f"it hung up: {last_line(self._log)}")

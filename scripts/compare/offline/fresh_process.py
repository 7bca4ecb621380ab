"""From a command to its first token, as a user at a shell sees it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path

from compare.offline.worker_process import Command, EngineFailed, last_line

TIMEOUT_S = 600


def seconds_to_first_output(command: Command, log: Path) -> float:
    """Start the command and wait for the first byte on its stdout; raises EngineFailed when there is none.

    The command prints nothing there before the first token. It is left to end by itself, outside the measured time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = command.full_environment()
    with log.open("w") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command.arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
            seconds = time.perf_counter() - start
            output = os.read(process.stdout.fileno(), 1) if ready else b""
            if not output:
                process.kill() if not ready else process.wait()
                raise EngineFailed(f"exit code {process.wait()}: {last_line(log)}")
            process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
    return seconds

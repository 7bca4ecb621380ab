"""`inflight serve` as a child: started, asked until it is ready, stopped with everything it has started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from compare.offline.worker_process import EngineFailed, last_line
from compare.serving.processes import ENGINE, SHIM, cpu_seconds, tree
from compare.serving.ways import EMBEDDED, WITH_TRITON, Way, Workload

READY_TIMEOUT_S, STOP_TIMEOUT_S = 300, 30
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Server:
    """One server on ports of its own; `kind` is WITH_TRITON or EMBEDDED. Raises EngineFailed when it does not start."""

    def __init__(self, kind: str, program: Path, engine: Path, workload: Workload, threads: int, log: Path) -> None:
        self.kind, self._log = kind, log
        self._port, http_port, self._grpc_port, metrics_port = _free_ports(4)
        command = [str(program), "serve", str(engine), "--port", str(self._port), "--http-port", str(http_port)]
        command += ["--grpc-port", str(self._grpc_port), "--metrics-port", str(metrics_port)]
        command += ["--threads", str(threads), "--kv-cache-tokens", str(workload.kv_tokens)]
        command += ["--no-enable-prefix-caching", *(["--embedded"] if kind == EMBEDDED else [])]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def address(self, way: Way) -> str:
        """What `inflight bench serve` takes as --base-url."""
        return f"127.0.0.1:{self._grpc_port}" if way.backend == "triton" else f"http://127.0.0.1:{self._port}"

    def cpu_seconds(self) -> dict[str, float]:
        """So far, by role."""
        return cpu_seconds(self._process.pid, ENGINE if self.kind == EMBEDDED else SHIM)

    def close(self) -> None:
        """Ask it to stop; what is left of it after a while is killed."""
        left = tree(self._process.pid)[1:]
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for pid in [self._process.pid, *left]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                raise EngineFailed(f"exit code {self._process.returncode}: {last_line(self._log)}")
            if time.monotonic() > deadline:
                raise EngineFailed(f"not ready after {READY_TIMEOUT_S} s; its log is {self._log}")
            time.sleep(0.2)
        if self.kind == WITH_TRITON and "tritonserver" not in self.cpu_seconds():
            raise EngineFailed(f"Triton does not run here; {self._log} says why")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _end_with_parent() -> None:
    """SIGTERM, at which `inflight serve` stops Triton too."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last was found."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]

"""Running tritonserver as a child process."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from inflight.errors import InflightError
from inflight.triton_backend.launch.addresses import cannot_listen, of_libevent, of_url
from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.supervision.processes import (
    SessionGuard,
    children,
    dies_with_parent,
    end_of,
    how_it_ended,
    process_state,
)
from inflight.triton_backend.launch.supervision.scratch import remove_shared_memory
from inflight.triton_backend.launch.supervision.sockets import has_clients, listener

_EXIT_TIMEOUT_S = 5
# What a server that is asked to stop may take beyond its exit timeout.
_GRACE_S = 5
# Of each Python model, for its calls of other models: a request through tensorrt_llm_bls keeps one until it ends.
THREAD_POOL_SIZE = 128
_LETTING_GO_S = 1.0
_LOG_TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Addresses on which tritonserver listens. Default: loopback. `host`: an IP address."""

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002

    def check_ports(self) -> None:
        """Raises InflightError when one of the ports is taken."""
        check_port(self.host, self.http_port, "--http-port")
        check_port(self.host, self.grpc_port, "--grpc-port")
        check_port(self.host, self.metrics_port, "--metrics-port")

    @property
    def client_ports(self) -> tuple[int, int]:
        """Those on which requests come."""
        return self.http_port, self.grpc_port

    @property
    def grpc_url(self) -> str:
        return f"{reachable(self.host)}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://{reachable(self.host)}:{self.http_port}"


class TritonServer:
    """One tritonserver on one model repository. A context manager: started on entry, stopped on exit.

    The server has a session of its own: a Ctrl-C in the terminal reaches only this process, which stops it in order.
    It does not outlive the thread that starts it, nor do the processes of its Python models outlive this one.
    `exit_timeout_s`: how long, when it is asked to stop, it waits for the requests that run. `more_environment`: what
    its processes get beside the installation's. `is_idle` tells that nothing runs in the engine: Triton itself waits
    for idle connections to be closed. `is_keeping` tells that the engine has yet to write what is to outlive it.
    """

    def __init__(
        self,
        installation: TritonInstallation,
        repository: Path,
        address: ServerAddress,
        log: Path,
        *,
        exit_timeout_s: int = _EXIT_TIMEOUT_S,
        more_flags: Sequence[str] = (),
        more_environment: Mapping[str, str] | None = None,
        is_idle: Callable[[], bool] = lambda: False,
        is_keeping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.address = address
        self.log = log
        self._exit_timeout_s = exit_timeout_s
        self._is_idle = is_idle
        self._is_keeping = is_keeping
        # Under this name it is found again when the server has been killed.
        self._shared_memory = f"{repository.parent.name}_{secrets.token_hex(4)}_"
        self._command = [
            *_command(installation, repository, address),
            f"--exit-timeout-secs={exit_timeout_s}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            *more_flags,
        ]
        self._environment = {**installation.environment(), **(more_environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: SessionGuard | None = None
        self._models: dict[int, str] = {}
        self._log_mode = "wb"

    def start(self) -> None:
        """Start the process, for the first time or again. Raises InflightError when a port is taken."""
        self.address.check_ports()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open(self._log_mode) as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        self._guard = SessionGuard(self._process.pid)
        self._log_mode = "ab"  # what a server said before it died is kept

    def wait_until_ready(self, timeout_s: float = 300) -> None:
        """Return when every model is loaded. Raises InflightError with the end of the log when that does not happen."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                raise InflightError("Triton stopped while it was loading the models.", self.log_tail())
            if self.is_ready():
                return
            time.sleep(0.1)
        raise InflightError(f"Triton was not ready after {timeout_s:.0f} seconds.", self.log_tail())

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether the server answers that it and all its models are ready."""
        try:
            with urllib.request.urlopen(f"{self.address.http_url}/v2/health/ready", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def watch_models(self) -> None:
        """From now on `death` also looks at the processes of the Python models. For a server that is ready."""
        self._models = self._processes_of_models()

    def _processes_of_models(self) -> dict[int, str]:
        """Those of its Python models that run."""
        assert self._process is not None
        return {
            pid: Path(line.split("\0")[1]).parent.parent.name
            for pid, line in children(self._process.pid).items()
            if line.count("\0") > 1
        }

    def death(self) -> str | None:
        """What has ended, and how, when the server cannot serve any more: itself, or the process of one of its models,
        whose requests would wait for ever. Triton 2.51 neither ends these nor calls itself unready."""
        return self._death_among(self._models)

    def _death_among(self, models: Mapping[int, str]) -> str | None:
        if self._process is None:
            return "tritonserver is not running"
        if self._process.poll() is None:
            ended = [(process_state(pid), pid, model) for pid, model in models.items() if self._has_ended(pid)]
            # The one whose end is known, where there is one: others may have gone because of it.
            ended.sort(key=lambda one: one[0] is None or not one[0].is_dead)
            for state, pid, model in ended[:1]:
                is_gone = state is None or not state.is_dead
                if not (is_gone and self._ends_within(_LETTING_GO_S)):
                    return f"the process of Triton's model {model}, pid {pid}, {end_of(state)}"
        code = self._process.poll()
        return None if code is None else f"tritonserver, pid {self._process.pid}, {how_it_ended(code)}"

    def _ends_within(self, seconds: float) -> bool:
        """Whether the server ends: nobody but a server that does lets go of a model's process before it has died."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def was_killed(self) -> bool:
        """Whether a signal ended the server itself."""
        return self._process is not None and (self._process.poll() or 0) < 0

    def _has_ended(self, model: int) -> bool:
        state = process_state(model)
        return state is None or state.is_dead or self._process is None or state.parent != self._process.pid

    def stopped_processes(self) -> list[str]:
        """Those of the server's processes that a signal (SIGSTOP) has halted."""
        names = dict(self._models)
        if self._process is not None:
            names[self._process.pid] = "tritonserver"
        states = {f"{name}, pid {pid}": process_state(pid) for pid, name in names.items()}
        return [which for which, state in states.items() if state is not None and state.state == "T"]

    def ask_to_stop(self) -> None:
        """Begin to stop: no new requests, running ones go on until the exit timeout."""
        if self._process is not None:
            self._process.terminate()

    def has_stopped(self) -> bool:
        """After `ask_to_stop`: whether no request runs any more that somebody waits for, and nothing is left to be
        written. Triton goes on with requests whose HTTP clients have gone."""
        if not self.is_running() or (self._models and all(map(self._has_ended, self._models))):
            return True
        return not self._is_keeping() and (self._is_idle() or not has_clients(self.address.client_ports))

    def kill(self) -> None:
        """End what is left of the server's session at once. Harmless when repeated.

        A server that gives up on a request that never ends leaves the processes of its Python models behind.
        """
        process, self._process = self._process, None
        self._models = {}
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if self._guard is not None:
            self._guard.dismiss()
        process.wait()
        remove_shared_memory(self._shared_memory)

    def stop(self) -> None:
        """Ask the server to stop, then end what is left of its session. Harmless when repeated."""
        deadline = time.monotonic() + self._exit_timeout_s + _GRACE_S
        try:
            if self.is_running() and not self._models:
                self.watch_models()
            self.ask_to_stop()
            while not self.has_stopped() and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:  # A second interrupt while waiting must not leave a server behind either.
            self.kill()

    def log_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(["The end of its log, " + f"{self.log}:", *lines[-_LOG_TAIL_LINES:]])

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def check_port(host: str, port: int, flag: str) -> None:
    """Raises InflightError when nothing can listen there. Port 0 would be another each time, which nobody knows."""
    if not 0 < port < 1 << 16:
        raise InflightError(f"{flag} is {port}; ports are 1 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise cannot_listen(host, port, error.strerror or str(error)) from error
            holder = listener(port) if error.errno == errno.EADDRINUSE else None
            by = f" by {holder}" if holder else ""
            raise InflightError(
                f"Port {port} on {host} cannot be used: {error.strerror}{by}.", f"Choose another: {flag}."
            ) from error


def reachable(host: str) -> str:
    """The address, as URLs have it, under which this machine reaches what listens on `host`."""
    return of_url({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host))


def _command(installation: TritonInstallation, repository: Path, address: ServerAddress) -> list[str]:
    return [
        str(installation.server),
        f"--model-repository={repository}",
        f"--backend-directory={installation.backends}",
        "--disable-auto-complete-config",
        f"--backend-config=python,thread-pool-size={THREAD_POOL_SIZE}",
        f"--http-address={of_libevent(address.host)}",
        f"--http-port={address.http_port}",
        f"--grpc-address={of_url(address.host)}",
        f"--grpc-port={address.grpc_port}",
        f"--metrics-address={of_libevent(address.host)}",
        f"--metrics-port={address.metrics_port}",
    ]

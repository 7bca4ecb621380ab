"""Running tritonserver as a child process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from inflight.errors import InflightError
from inflight.triton_backend.launch.installation import TritonInstallation

# Triton waits this long for clients to close their connections, idle ones too.
_EXIT_TIMEOUT_S = 5
_LOG_TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Addresses on which tritonserver listens. Default: loopback."""

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
    def grpc_url(self) -> str:
        return f"{reachable(self.host)}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://{reachable(self.host)}:{self.http_port}"


class TritonServer:
    """One tritonserver on one model repository. A context manager: started on entry, stopped on exit.

    The server has a session of its own: a Ctrl-C in the terminal reaches only this process, which stops it in order.
    """

    def __init__(self, installation: TritonInstallation, repository: Path, address: ServerAddress, log: Path) -> None:
        self.address = address
        self.log = log
        self._command = _command(installation, repository, address)
        self._environment = installation.environment()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Raises InflightError when a port is taken."""
        self.address.check_ports()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, timeout_s: float = 300) -> None:
        """Return when every model is loaded. Raises InflightError with the end of the log when that does not happen."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                raise InflightError("Triton stopped while it was loading the models.", self._log_tail())
            if self.is_ready():
                return
            time.sleep(0.1)
        raise InflightError(f"Triton was not ready after {timeout_s:.0f} seconds.", self._log_tail())

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether the server answers that it and all its models are ready."""
        try:
            with urllib.request.urlopen(f"{self.address.http_url}/v2/health/ready", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """Ask the server to stop, then end what is left of its session. Harmless when repeated.

        A server that gives up on a request that never ends leaves the processes of its Python models behind.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_EXIT_TIMEOUT_S + 5)
        finally:  # A second interrupt while waiting must not leave a server behind either.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log_tail(self) -> str:
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
    """Raises InflightError when nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InflightError(
                f"Port {port} on {host} cannot be used: {error.strerror}.", f"Choose another: {flag}."
            ) from error
        except OverflowError:
            raise InflightError(f"{flag} is {port}; ports are 0 to 65535.") from None


def reachable(host: str) -> str:
    """The address, as URLs have it, under which this machine reaches what listens on `host`."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{address}]" if ":" in address else address


def _command(installation: TritonInstallation, repository: Path, address: ServerAddress) -> list[str]:
    return [
        str(installation.server),
        f"--model-repository={repository}",
        f"--backend-directory={installation.backends}",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        f"--http-address={address.host}",
        f"--http-port={address.http_port}",
        f"--grpc-address={address.host}",
        f"--grpc-port={address.grpc_port}",
        f"--metrics-address={address.host}",
        f"--metrics-port={address.metrics_port}",
    ]

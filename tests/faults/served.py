"""`inflight serve` in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.endpoint.conftest import free_ports
from tests.faults.commands import COMMAND
from tests.faults.processes import Process, kill, of_environment, tree
from tests.patience import PATIENCE_S, eventually

Mode = Literal["embedded", "triton"]
MODES: tuple[Mode, ...] = ("embedded", "triton")
MODEL = "faulty"
KV_TOKENS = 1 << 18


@dataclass
class Served:
    """A server that was started; `log` holds all that it printed."""

    mode: Mode
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    triton_http: int
    triton_grpc: int
    triton_metrics: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def is_ready(self) -> bool:
        """Whether everything that a load balancer may ask says so."""
        urls = [f"{self.url}/health/ready"]
        if self.mode == "triton":
            urls.append(f"http://127.0.0.1:{self.triton_http}/v2/health/ready")
        return all(_status(url) == 200 for url in urls)

    def processes(self) -> list[Process]:
        """All but what the shells that watch over models sleep with, which is another process every second."""
        return [each for each in tree(self.process.pid) if each.role != "sleep"]

    def pids(self, role: str) -> list[int]:
        return [each.pid for each in self.processes() if each.role == role]

    def left(self) -> list[int]:
        """All of its processes that live, orphans included."""
        return of_environment("INFLIGHT_CACHE", str(self.log.parent / "cache"))

    def unfinished(self) -> dict[str, float]:
        """What is left of requests: all zero when there are none."""
        shim = _metrics(f"{self.url}/metrics")
        left = {"requests": shim["inflight_requests_running"]}
        if self.mode == "embedded":
            names = ("running", "waiting", "held", "used_blocks")
            return left | {name: shim[f"inflight_engine_{name}"] for name in names}
        triton = _metrics(f"http://127.0.0.1:{self.triton_metrics}/metrics")
        return left | {
            "active": triton["nv_trt_llm_request_metrics active"],
            "used_blocks": triton["nv_trt_llm_kv_cache_block_metrics used"],
        }

    def shown(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """The exit code, or None when it had to be killed."""
        kill(self.process.pid, number)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill_all()
            return None

    def kill_all(self) -> None:
        """End it and everything that it started."""
        kill(self.process.pid)
        self.process.wait()
        for pid in self.left():
            kill(pid)
        eventually(lambda: not self.left())


@contextmanager
def served(mode: Mode, engine: Path, scratch: Path, *flags: str) -> Iterator[Served]:
    """A server that is ready; at the end it and all that it started are killed, if they still run."""
    with starting(mode, engine, scratch, *flags) as server:
        ready = eventually(lambda: not server.is_running or server.is_ready())
        assert ready and server.is_running, server.shown()
        yield server


@contextmanager
def starting(mode: Mode, engine: Path, scratch: Path, *flags: str) -> Iterator[Served]:
    """The same, without waiting for more than the command's first line of code."""
    port, http, grpc, metrics = free_ports(4)
    ports = ["--port", port, "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    begun, begins = os.pipe()
    command = [sys.executable, "-c", COMMAND, str(begins), "serve", str(engine), *map(str, ports)]
    command += ["--served-model-name", MODEL, "--kv-cache-tokens", str(KV_TOKENS)]
    command += [*(["--embedded"] if mode == "embedded" else []), *flags]
    log = scratch / f"{mode}-{port}" / "serve.log"
    log.parent.mkdir(parents=True)
    environment = {**os.environ, "INFLIGHT_CACHE": str(log.parent / "cache")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True, pass_fds=[begins]
        )
    os.close(begins)
    os.read(begun, 1)
    os.close(begun)
    server = Served(mode, process, log, port, http, grpc, metrics)
    try:
        yield server
    finally:
        server.kill_all()


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _metrics(url: str) -> dict[str, float]:
    """Name (and behind it the kind, for Triton's metrics of the engine, which are told apart by it) -> value."""
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
        text: str = page.read().decode()
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            kind = re.search(r'\w+_type="(\w+)"', name)
            found[f"{name.partition('{')[0]} {kind[1]}" if kind else name] = float(value)
    return found

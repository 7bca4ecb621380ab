"""`inflight serve` as a process, and clients that are in the middle of an answer when something happens to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import openai

from inflight.triton_backend.launch.server import ServerAddress
from inflight.triton_backend.launch.supervision.processes import children, process_state
from tests.endpoint.conftest import free_ports
from tests.endpoint.triton_calls import Stream, ids
from tests.patience import PATIENCE_S, eventually

MODEL = "served"
# Far more than anybody waits for.
ENDLESS = 60_000
TRITON_MODELS = ("tensorrt_llm", "tensorrt_llm_bls", "ensemble")


@dataclass(frozen=True)
class Served:
    """A server that was started; `log` has what it says."""

    process: subprocess.Popen[bytes]
    port: int
    address: ServerAddress
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def health(self) -> tuple[int | None, str]:
        """Status and body of /health; None when nothing answers."""
        return _get(f"{self.url}/health")

    def is_healthy(self) -> bool:
        return self.health()[0] == 200

    def parts(self) -> dict[str, int]:
        """The pids of its processes: "api", "tritonserver", and Triton's models by their names."""
        found = {}
        for pid, line in children(self.process.pid).items():
            program = Path(line.split("\0")[0]).name
            if program == "sh":
                continue  # the guard of tritonserver's session
            if program != "tritonserver":
                found["api"] = pid
                continue
            found["tritonserver"] = pid
            for model, command in children(pid).items():
                found[Path(command.split("\0")[1]).parent.parent.name] = model
        return found

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)

    def ask(self) -> str:
        """A short answer; the same one each time."""
        with self.client() as client:
            answer = client.completions.create(model=MODEL, prompt="fox", max_tokens=9, seed=3, temperature=0)
        return str(answer.choices[0].text)


@contextmanager
def serving(
    engine: Path,
    folder: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    meanwhile: Callable[[Served], None] = lambda served: None,
) -> Iterator[Served]:
    """A server once it is healthy; killed at the end if it still runs. `meanwhile`: what to do while it starts."""
    port, http, grpc, metrics = free_ports(4)
    address = ServerAddress(http_port=http, grpc_port=grpc, metrics_port=metrics)
    ports = {"--port": port, "--http-port": http, "--grpc-port": grpc, "--metrics-port": metrics}
    command = [str(Path(sys.executable).with_name("inflight")), "serve", str(engine), "--served-model-name", MODEL]
    command += [word for flag, number in ports.items() for word in (flag, str(number))]
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *flags], env={**os.environ, **(environment or {})}, stderr=output)
    served = Served(process, port, address, log)
    try:
        meanwhile(served)
        assert eventually(lambda: process.poll() is not None or served.is_healthy())
        assert process.poll() is None, served.said()
        yield served
    finally:
        process.kill()
        process.wait()


class Clients:
    """Requests in the middle of endless answers: over the OpenAI API streamed ("stream") and not ("whole"), and over
    gRPC to each of Triton's models. `ended` has how each ended."""

    def __init__(self, served: Served, triton: bool) -> None:
        self._served = served
        self._leave = threading.Event()
        self._pool = ThreadPoolExecutor()
        self._begun = [threading.Event() for _ in range(1 + (len(TRITON_MODELS) if triton else 0))]
        self._ends: dict[str, Future[BaseException | None]] = {
            "stream": self._pool.submit(self._read_stream, self._begun[0]),
            "whole": self._pool.submit(self._read_whole),
        }
        for model, begun in zip(TRITON_MODELS, self._begun[1:], strict=False):
            self._ends[model] = self._pool.submit(self._read_triton, model, begun)
        assert eventually(lambda: all(begun.is_set() for begun in self._begun) and self._running() == 2)

    def end(self, name: str) -> BaseException | None:
        """What ended a request, once something has; None when it was answered to the end."""
        return self._ends[name].result(PATIENCE_S)

    def still_running(self) -> set[str]:
        return {name for name, end in self._ends.items() if not end.done()}

    def leave(self) -> None:
        """Nothing more is waited for; what is not streamed ends with its server."""
        self._leave.set()
        self._pool.shutdown(wait=False)

    def _running(self) -> int:
        _, metrics = _get(f"{self._served.url}/metrics")
        line = next(line for line in metrics.splitlines() if line.startswith("inflight_requests_running "))
        return int(float(line.split()[1]))

    def _read_stream(self, begun: threading.Event) -> BaseException | None:
        try:
            with self._served.client() as client:
                for _ in client.completions.create(**_endless(), stream=True):
                    begun.set()
                    if self._leave.is_set():
                        break
        except Exception as error:
            return error
        return None

    def _read_whole(self) -> BaseException | None:
        try:
            with self._served.client() as client:
                client.completions.create(**_endless())
        except Exception as error:
            return error
        return None

    def _read_triton(self, model: str, begun: threading.Event) -> BaseException | None:
        text = {"text_input": "fox", "max_tokens": ENDLESS, "stream": True, "end_id": -1}
        tokens = {**ids([5], ENDLESS), "streaming": True, "end_id": -1}
        try:
            with Stream(cast(Any, self._served)) as stream:  # which has an address, as it needs
                stream.send(model, tokens if model == "tensorrt_llm" else text)
                while not stream.receive()[1] and not self._leave.is_set():
                    begun.set()
        except Exception as error:
            return error
        return None


def _endless() -> dict[str, Any]:
    return {"model": MODEL, "prompt": "fox", "max_tokens": ENDLESS, "extra_body": {"ignore_eos": True}}


def _get(url: str) -> tuple[int | None, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return None, ""


@contextmanager
def watching_health(served: Served) -> Iterator[list[int | None]]:
    """The statuses of /health, asked again and again until the end of the block."""
    seen: list[int | None] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen.append(served.health()[0])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def message_of(error: BaseException | None) -> str:
    """The message of an error in OpenAI's shape."""
    body = getattr(error, "body", None)
    return str(body["message"]) if isinstance(body, dict) and "message" in body else json.dumps(repr(error))


def gone(pids: Mapping[str, int]) -> bool:
    """Whether none of these processes is left."""
    with suppress(StopIteration):
        next(pid for pid in pids.values() if (state := process_state(pid)) is not None and state.state not in "ZX")
        return False
    return True

"""The rounds: the offline engine, then every way to the same engine, on the same prompts."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench.serving.processes import cpu_seconds, spent
from bench.serving.record import LATENCIES, OFFLINE, RANKS, Sample, ServeRun
from bench.serving.server import Server
from bench.serving.ways import Way
from bench.worker_process import Command, EngineFailed, WorkerProcess
from inflight.benchmark.serve.datasets import make_prompts
from inflight.benchmark.serve.options import ServeBenchOptions

CLIENT_TIMEOUT_S = 600


class Rounds:
    """Measures into `run`. `program`: `inflight`; `offline`: a process that speaks workers/protocol.py."""

    def __init__(self, run: ServeRun, program: Path, engine: Path, logs: Path, say: Callable[[str], None]) -> None:
        self._run, self._program, self._engine, self._logs, self._say = run, program, engine, logs, say

    def measure(self, ways: list[Way], offline: Command, rounds: int) -> None:
        """A warm-up of everything, then the rounds; who goes first changes from round to round."""
        with ExitStack() as stack:
            servers = self._start(ways, stack)
            ways = [way for way in ways if way.server in servers]
            self._say("offline: loading")
            worker = stack.enter_context(WorkerProcess(OFFLINE, offline, self._logs / "serve-offline.log"))
            for turn in range(-1, rounds):
                seed = secrets.randbelow(1 << 31)
                self._say(f"offline, {'warm-up' if turn < 0 else f'round {turn + 1} of {rounds}'}")
                self._keep(turn, OFFLINE, self._offline(worker, list(servers.values()), seed))
                shift = turn % len(ways) if ways else 0
                for way in ways[shift:] + ways[:shift]:
                    self._say(f"{way.title}, {'warm-up' if turn < 0 else f'round {turn + 1} of {rounds}'}")
                    self._keep(turn, way.key, self._through(way, servers[way.server], seed))

    def _keep(self, turn: int, key: str, sample: Sample) -> None:
        if turn >= 0:
            self._run.samples.setdefault(key, []).append(sample)

    def _start(self, ways: list[Way], stack: ExitStack) -> dict[str, Server]:
        servers: dict[str, Server] = {}
        for kind in sorted({way.server for way in ways}):
            self._say(f"{kind} server: starting")
            log = self._logs / f"serve-{kind}.log"
            try:
                server = Server(kind, self._program, self._engine, self._run.workload, self._run.threads, log)
            except EngineFailed as error:
                self._run.failures[kind] = str(error)
                continue
            servers[kind] = stack.enter_context(server)
        return servers

    def _offline(self, worker: WorkerProcess, servers: list[Server], seed: int) -> Sample:
        workload = self._run.workload
        options = ServeBenchOptions(
            base_url="", num_prompts=workload.clients, random_input_len=workload.prompt, seed=seed
        )
        prompts = make_prompts(options, None, np.random.default_rng(seed))
        ids = [list(prompt.token_ids or ()) for prompt in prompts]
        before, idle_before = _total(cpu_seconds(worker.pid)), sum(_total(server.cpu_seconds()) for server in servers)
        seconds = worker.measure(ids, workload.output)
        cpu = _total(cpu_seconds(worker.pid)) - before
        idle_cpu = sum(_total(server.cpu_seconds()) for server in servers) - idle_before
        return Sample(seconds, workload.tokens, {"engine": cpu}, idle_cpu=idle_cpu)

    def _through(self, way: Way, server: Server, seed: int) -> Sample:
        workload = self._run.workload
        before = server.cpu_seconds()
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch) / "result.json"
            command = [str(self._program), "bench", "serve", "--backend", way.backend, "--seed", str(seed)]
            command += ["--base-url", server.address(way), "--num-warmups", "0", "--metric-percentiles", "50,99"]
            command += ["--num-prompts", str(workload.clients), "--max-concurrency", str(workload.clients)]
            command += ["--random-input-len", str(workload.prompt), "--random-output-len", str(workload.output)]
            command += ["--result-filename", str(result)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S)
            if done.returncode:
                raise EngineFailed(f"{way.title}: the clients failed: {done.stderr.strip()[-300:]}")
            figures = json.loads(result.read_text())
        if figures["total_output_tokens"] != workload.tokens:
            raise EngineFailed(f"{way.title}: {figures['total_output_tokens']} tokens came, not {workload.tokens}")
        return Sample(
            seconds=figures["duration"],
            tokens=workload.tokens,
            cpu=spent(before, server.cpu_seconds()),
            client_cpu=figures["client_cpu_seconds"],
            latencies={f"{rank}_{name}": figures[f"{rank}_{name}_ms"] for name in LATENCIES for rank in RANKS},
        )


def _total(seconds: dict[str, float]) -> float:
    return sum(seconds.values())

"""The rounds: the offline engine, then every way to the same engine, on the same prompts."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from compare.offline.worker_process import Command, EngineFailed, WorkerProcess
from compare.serving.processes import ENGINE, cpu_seconds, spent
from compare.serving.record import LATENCIES, OFFLINE, RANKS, Sample, ServeRun
from compare.serving.server import Server
from compare.serving.ways import Way, Workload
from inflight.benchmark.serve.datasets import make_prompts
from inflight.benchmark.serve.options import ServeBenchOptions

CLIENT_TIMEOUT_S = 600
# Tokens in and out of the clients of the warm-up.
WARM_UP = (8, 8)


class Rounds:
    """Measures into `run`. `program`: `inflight`; `offline`: a process that speaks workers/protocol.py."""

    def __init__(self, run: ServeRun, program: Path, engine: Path, logs: Path, say: Callable[[str], None]) -> None:
        self._run, self._program, self._engine, self._logs, self._say = run, program, engine, logs, say

    def measure(self, ways: list[Way], offline: Command, rounds: int) -> None:
        """A short warm-up of everything, then the rounds; who goes first changes from round to round."""
        with ExitStack() as stack:
            servers = self._start(ways, stack)
            ways = [way for way in ways if way.server in servers]
            self._say("offline: loading")
            worker = stack.enter_context(WorkerProcess(OFFLINE, offline, self._logs / "serve-offline.log"))
            self._round("warm-up", Workload(self._run.workload.clients, *WARM_UP), ways, servers, worker)
            for turn in range(rounds):
                ways = [way for way in ways if way.title not in self._run.failures]
                shift = turn % len(ways) if ways else 0
                name = f"round {turn + 1} of {rounds}"
                samples = self._round(name, self._run.workload, ways[shift:] + ways[:shift], servers, worker)
                for key, sample in samples.items():
                    self._run.samples.setdefault(key, []).append(sample)

    def _round(
        self, name: str, workload: Workload, ways: list[Way], servers: dict[str, Server], worker: WorkerProcess
    ) -> dict[str, Sample]:
        """A sample of the offline engine and of each way, on the same prompts; a way that fails is noted, and left out
        from then on."""
        seed = secrets.randbelow(1 << 31)
        self._say(f"offline, {name}")
        samples = {OFFLINE: self._offline(workload, worker, list(servers.values()), seed)}
        for way in ways:
            self._say(f"{way.title}, {name}")
            try:
                samples[way.key] = self._through(way, workload, servers[way.server], seed)
            except EngineFailed as error:
                self._run.failures[way.title] = str(error)
        return samples

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

    def _offline(self, workload: Workload, worker: WorkerProcess, servers: list[Server], seed: int) -> Sample:
        same = {"base_url": "", "num_prompts": workload.clients, "random_input_len": workload.prompt}
        prompts = make_prompts(ServeBenchOptions.model_validate(same), None, np.random.default_rng(seed))
        ids = [list(prompt.token_ids or ()) for prompt in prompts]
        before, idle_before = (
            _total(cpu_seconds(worker.pid, ENGINE)),
            sum(_total(server.cpu_seconds()) for server in servers),
        )
        seconds = worker.measure(ids, workload.output)
        cpu = _total(cpu_seconds(worker.pid, ENGINE)) - before
        idle_cpu = sum(_total(server.cpu_seconds()) for server in servers) - idle_before
        return Sample(seconds, workload.tokens, {ENGINE: cpu}, idle_cpu=idle_cpu)

    def _through(self, way: Way, workload: Workload, server: Server, seed: int) -> Sample:
        before = server.cpu_seconds()
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch) / "result.json"
            command = [str(self._program), "bench", "serve", "--backend", way.backend, "--seed", str(seed)]
            command += ["--base-url", server.address(way), "--num-warmups", "0", "--metric-percentiles", "50,99"]
            command += ["--num-prompts", str(workload.clients), "--max-concurrency", str(workload.clients)]
            command += ["--random-input-len", str(workload.prompt), "--random-output-len", str(workload.output)]
            command += ["--result-filename", str(result)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise EngineFailed(f"the clients were not done after {CLIENT_TIMEOUT_S} s") from None
            if done.returncode:
                raise EngineFailed(f"the clients failed: {done.stderr.strip()[-300:]}")
            figures = json.loads(result.read_text())
        if figures["total_output_tokens"] != workload.tokens:
            raise EngineFailed(f"{figures['total_output_tokens']} tokens came, not {workload.tokens}")
        return Sample(
            seconds=figures["duration"],
            tokens=workload.tokens,
            cpu=spent(before, server.cpu_seconds()),
            client_cpu=figures["client_cpu_seconds"],
            latencies={f"{rank}_{name}": _milliseconds(figures, rank, name) for name in LATENCIES for rank in RANKS},
        )


def _milliseconds(figures: dict[str, Any], rank: str, name: str) -> float:
    """NaN without samples: answers of one token have no time between tokens."""
    value = figures[f"{rank}_{name}_ms"]
    return float("nan") if value is None else float(value)


def _total(seconds: dict[str, float]) -> float:
    return sum(seconds.values())

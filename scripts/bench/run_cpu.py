"""Measure inflight beside its peers on this CPU: one run, alternating, medians and ratios.

Writes OUT/cpu.json, OUT/cpu.md and OUT/cpu.png. Start it through scripts/bench/cpu, which sets up the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from report import write_report
from shapes import SHAPES, write_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Cell:
    """One workload: `users` prompts of `prompt` random tokens, `output` tokens each."""

    name: str
    users: int
    prompt: int
    output: int


CELLS = (
    Cell("prefill of 512", 1, 512, 1),
    Cell("decode, 1 user", 1, 4, 64),
    Cell("16 users, 128 in + 64 out", 16, 128, 64),
    Cell("32 users, 128 in + 64 out", 32, 128, 64),
)


class Peer:
    """A worker process (see workers/protocol.py)."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = str(self._answer()["version"])

    def measure(self, prompts: list[list[int]], max_tokens: int) -> float:
        """Seconds of one call."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "max_tokens": max_tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        expected = len(prompts) * max_tokens
        if answer["tokens"] != expected:
            raise SystemExit(f"{self.name} made {answer['tokens']} tokens; {expected} were asked for.")
        return float(answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early, with exit code {self._process.wait()}; its message is above.")
        return dict(json.loads(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def machine_limits(threads: int) -> dict[str, float]:
    """Compile limits.c for this machine and run it: GB/s and Gop/s."""
    with tempfile.TemporaryDirectory() as scratch:
        binary = Path(scratch) / "limits"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-O3", "-march=native", "-pthread"]
        subprocess.run([*compiler, str(HERE / "limits.c"), "-o", str(binary)], check=True)
        output = subprocess.run([str(binary), str(threads)], check=True, capture_output=True, text=True).stdout
    return {name: float(value) for name, value in (line.split() for line in output.splitlines())}


def prepare_engine(model: Path, work: Path, dtype: str, cpu: str) -> Path:
    """Convert and build, once per working directory."""
    engine = work / f"engine-{dtype}-{cpu}"
    if not engine.exists():
        inflight = [str(Path(sys.executable).with_name("inflight"))]
        checkpoint = work / f"checkpoint-{dtype}"
        if not checkpoint.exists():
            convert = [*inflight, "convert", str(model), "--output-dir", str(checkpoint), "--dtype", dtype]
            subprocess.run(convert, check=True)
        build = [*inflight, "build-engine", "--checkpoint-dir", str(checkpoint), "--output-dir", str(engine)]
        subprocess.run([*build, "--cpu", cpu, "--max-seq-len", "8192"], check=True)
    return engine


def measure_cells(peers: list[Peer], runs: int, vocab: int) -> dict[str, dict[str, list[float]]]:
    """seconds[cell][peer]: one warm-up, then `runs` alternating runs, every run with prompts of its own."""
    rng = np.random.default_rng()
    seconds: dict[str, dict[str, list[float]]] = {cell.name: {peer.name: [] for peer in peers} for cell in CELLS}
    for cell in CELLS:
        for run in range(runs + 1):
            prompts = rng.integers(0, vocab, (cell.users, cell.prompt)).tolist()
            for peer in peers:
                took = peer.measure(prompts, cell.output)
                if run:
                    seconds[cell.name][peer.name].append(took)
        medians = {name: statistics.median(values) for name, values in seconds[cell.name].items()}
        print(f"{cell.name:28s}", "  ".join(f"{name} {value:.3f} s" for name, value in medians.items()), flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2-0.5b")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--cpu", default="native")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench", help="models and engines are kept here")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "bench" / "results")
    options = parser.parse_args()

    limits = machine_limits(options.threads)
    print("limits:", ", ".join(f"{name} {value}" for name, value in limits.items()), flush=True)
    work = options.work / options.shape
    model = write_model(work / "model", options.shape)
    engine = prepare_engine(model, work, options.dtype, options.cpu)
    threads = str(options.threads)
    workers = HERE / "workers"
    peers = [
        Peer("inflight", [sys.executable, str(workers / "inflight_worker.py"), str(engine), threads]),
        Peer(
            "transformers",
            [sys.executable, str(workers / "transformers_worker.py"), str(model), threads, options.dtype],
        ),
    ]
    seconds = measure_cells(peers, options.runs, SHAPES[options.shape]["vocab_size"])
    result = {
        "date": date.today().isoformat(),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": options.threads},
        "limits": limits,
        "shape": options.shape,
        "dtype": options.dtype,
        "work": json.loads((engine / "manifest.json").read_text())["work"],
        "versions": {peer.name: peer.version for peer in peers},
        "cells": [vars(cell) for cell in CELLS],
        "seconds": seconds,
    }
    for peer in peers:
        peer.close()
    write_report(result, options.out)


if __name__ == "__main__":
    main()

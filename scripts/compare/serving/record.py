"""One run's record: everything that was measured, as it is written to JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compare.serving.ways import Workload

OFFLINE = "offline"
LATENCIES = ("ttft", "tpot", "itl")
RANKS = ("p50", "p99")


@dataclass(frozen=True)
class Sample:
    """One round of one way, or of the offline engine.

    seconds: from the first request to the last token. client_cpu, cpu: processor seconds of the clients, and of each
    process of the server. latencies: milliseconds, by names like "p99_ttft". idle_cpu: of all servers, while the
    offline engine ran.
    """

    seconds: float
    tokens: int
    cpu: dict[str, float]
    client_cpu: float = 0.0
    latencies: dict[str, float] = field(default_factory=dict)
    idle_cpu: float = 0.0


@dataclass
class ServeRun:
    """samples[OFFLINE or a way's key]: one for every round, in the order of the rounds."""

    date: str
    machine: dict[str, str | int]
    cores: int
    threads: int
    shape_name: str
    precision: str
    workload: Workload
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, key: str, figure: Callable[[Sample], float]) -> float:
        return statistics.median(figure(sample) for sample in self.samples[key])

    def rate(self, sample: Sample) -> float:
        """Output tokens per second of the run."""
        return sample.tokens / sample.seconds

    def rate_without_clients(self, sample: Sample) -> float:
        """Output tokens per second of the time that the clients left: seconds - client_cpu / cores."""
        return sample.tokens / (sample.seconds - sample.client_cpu / self.cores)

    def share_of_offline(self, key: str, without_clients: bool = True) -> float:
        """The median over the rounds of a way's rate by that of the offline engine in the same round."""
        rate = self.rate_without_clients if without_clients else self.rate
        pairs = zip(self.samples[key], self.samples[OFFLINE], strict=False)
        return statistics.median(rate(sample) / self.rate(offline) for sample, offline in pairs)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> ServeRun:
        record: dict[str, Any] = json.loads(path.read_text())
        record["workload"] = Workload(**record["workload"])
        record["samples"] = {key: [Sample(**each) for each in samples] for key, samples in record["samples"].items()}
        return ServeRun(**record)

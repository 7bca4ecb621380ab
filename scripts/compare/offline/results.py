"""One run's record: everything that was measured, as it is written to JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compare.offline.bounds import Limits, Shape, bound_seconds, total_work
from compare.offline.cells import Cell, Precision
from inflight.benchmark.limit_checks import Share

INFLIGHT = "inflight"
# Who reads the very same file; their ratio is told beside that of the best peer.
SAME_FILE = {"inflight-gguf": "llama.cpp", "inflight-gguf-k": "llama.cpp-k"}


@dataclass
class Failure:
    engine: str
    precision: Precision
    where: str
    error: str


@dataclass
class Run:
    """samples[precision][cell][engine]: seconds of every call, in order (memory: bytes). limits[precision]: measured
    before, between and after that precision's cells; warnings: where a second way to know them disagrees.
    weights[precision][engine]: what the engine calls its weights."""

    date: str
    machine: dict[str, str | int]
    threads: int
    shape_name: str
    shape: Shape
    cells: list[Cell]
    limits: dict[Precision, list[dict[str, float]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    weights: dict[Precision, dict[str, str]] = field(default_factory=dict)
    samples: dict[Precision, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, precision: Precision, cell: Cell, engine: str, value: float) -> None:
        self.samples.setdefault(precision, {}).setdefault(cell.key, {}).setdefault(engine, []).append(value)

    def median(self, precision: Precision, cell: Cell, engine: str) -> float | None:
        values = self.samples.get(precision, {}).get(cell.key, {}).get(engine)
        return statistics.median(values) if values else None

    def limits_of(self, precision: Precision) -> Limits:
        return Limits.best(self.limits[precision])

    def share(self, precision: Precision, cell: Cell, engine: str) -> float | None:
        """Of the machine's limit, for throughput: 1 is as fast as it allows."""
        seconds = self.median(precision, cell, engine)
        if cell.kind != "throughput" or not seconds:
            return None
        return bound_seconds(self.shape, cell, precision, self.limits_of(precision)) / seconds

    def shares(self) -> list[Share]:
        """Of every engine in every cell: whoever is above the limit proves it wrong."""
        return [
            Share(f"{precision}, {cell.title}, {engine}", share, work.bound_by(self.limits_of(precision), precision))
            for precision in self.samples
            for cell in self.cells
            for work in (total_work(self.shape, cell, precision),)
            for engine in self.samples[precision].get(cell.key, {})
            if (share := self.share(precision, cell, engine)) is not None
        ]

    def best_peer(self, precision: Precision, cell: Cell) -> tuple[str, float] | None:
        """The engine with the least median that is not inflight in one of its forms."""
        engines = self.samples.get(precision, {}).get(cell.key, {})
        medians = {name: self.median(precision, cell, name) for name in engines if not name.startswith(INFLIGHT)}
        found = [(value, name) for name, value in medians.items() if value is not None]
        return (min(found)[1], min(found)[0]) if found else None

    def ratio(self, precision: Precision, cell: Cell) -> float | None:
        """Best peer over inflight: above 1, inflight is ahead."""
        ours, best = self.median(precision, cell, INFLIGHT), self.best_peer(precision, cell)
        return best[1] / ours if ours and best else None

    def same_file_ratios(self, precision: Precision, cell: Cell) -> dict[tuple[str, str], float]:
        """(inflight, peer) that read the same file: the peer's median over inflight's."""
        pairs = [(pair, [self.median(precision, cell, name) for name in pair]) for pair in SAME_FILE.items()]
        return {pair: theirs / ours for pair, (ours, theirs) in pairs if ours and theirs}

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Run:
        record: dict[str, Any] = json.loads(path.read_text())
        record["shape"] = Shape(**record["shape"])
        record["cells"] = [Cell(**cell) for cell in record["cells"]]
        record["failures"] = [Failure(**failure) for failure in record["failures"]]
        return Run(**record)

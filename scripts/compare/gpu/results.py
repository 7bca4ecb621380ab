"""What a run found out, as JSON and as Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

MISSING = "–"


@dataclass(frozen=True)
class Limits:
    """What the card does, measured: bytes read and written per second, operations per second by type of operands."""

    bytes_per_second: float
    peaks: dict[str, float]

    def least_seconds(self, moved: int, operations: int, operands: str) -> float:
        """The roofline (Williams, Waterman and Patterson, 2009)."""
        peak = self.peaks.get(operands)
        return max(moved / self.bytes_per_second, operations / peak if peak else 0.0)


@dataclass(frozen=True)
class Result:
    model: str
    name: str
    seconds: float
    least_seconds: float
    peer: str = ""
    peer_seconds: float | None = None

    @property
    def share(self) -> float:
        """Of the card's limit."""
        return self.least_seconds / self.seconds


@dataclass
class Run:
    card: str
    versions: dict[str, str]
    limits: Limits
    results: list[Result] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """cuda.json and cuda.md."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cuda.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (directory / "cuda.md").write_text(self.markdown())

    def markdown(self) -> str:
        peaks = ", ".join(f"{peak / 1e12:.0f} T operations/s in {name}" for name, peak in self.limits.peaks.items())
        lines = [f"# CUDA kernels on {self.card}", ""]
        lines += [f"Limits, measured: {self.limits.bytes_per_second / 1e9:.0f} GB/s copying, {peaks}.", ""]
        lines += [f"Versions: {', '.join(f'{name} {version}' for name, version in self.versions.items())}."]
        for model in dict.fromkeys(result.model for result in self.results):
            lines += [
                "",
                f"## {model}",
                "",
                "| kernel | us | limit us | of the limit | torch | torch us | torch / ours |",
            ]
            lines.append("| --- | ---: | ---: | ---: | --- | ---: | ---: |")
            lines += [_row(result) for result in self.results if result.model == model]
        if self.failures:
            lines += ["", "Failed:", "", *(f"* {name}: {reason}" for name, reason in self.failures.items())]
        return "\n".join(lines) + "\n"


def _row(result: Result) -> str:
    peer = result.peer_seconds
    fields = [
        result.name,
        f"{result.seconds * 1e6:.1f}",
        f"{result.least_seconds * 1e6:.1f}",
        f"{result.share:.0%}",
        result.peer if peer else MISSING,
        f"{peer * 1e6:.1f}" if peer else MISSING,
        f"{peer / result.seconds:.2f}" if peer else MISSING,
    ]
    return "| " + " | ".join(fields) + " |"

"""The limits of this machine, measured: bytes read per second, and operations per second by type."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inflight.build.targets.cpu.compiler.toolchain import zig_command, zig_environment
from inflight.cache import user_cache_dir
from inflight.errors import InflightError

SOURCE = Path(__file__).with_name("limits.c")
_COMPILE_S, _RUN_S = 120, 60


class UnknownLimits(InflightError):
    """The limits cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """`read` in bytes a second, `peaks` in operations a second by type (a multiply and an add are two), all threads
    together. A type that has no instructions of its own is absent."""

    threads: int
    read: float
    peaks: Mapping[str, float]

    def peak(self, dtype: str) -> float:
        """The peak of products whose inputs have this type; float32 does what no instruction does."""
        return self.peaks.get(dtype, self.peaks["float32"])

    def at_best(self, other: MachineLimits) -> MachineLimits:
        """The larger of both, limit by limit: whatever else ran on the machine only lowers them."""
        peaks = {dtype: max(value, other.peaks[dtype]) for dtype, value in self.peaks.items()}
        return MachineLimits(self.threads, max(self.read, other.read), peaks)

    def as_dict(self) -> dict[str, float]:
        """GB/s and Gop/s, in the names that limits.c prints."""
        rates = {f"{dtype}_Gop_per_s": value / 1e9 for dtype, value in self.peaks.items()}
        return {"read_GB_per_s": self.read / 1e9} | rates


def measure_limits(threads: int) -> MachineLimits:
    """Run the loops of limits.c on `threads` threads; about a second. Raises UnknownLimits when they cannot be compiled
    or run."""
    try:
        done = subprocess.run(
            [str(_program()), str(threads)], capture_output=True, text=True, check=True, timeout=_RUN_S
        )
    except subprocess.CalledProcessError as error:
        raise UnknownLimits(f"the measuring program failed: {error.stderr.strip() or error}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise UnknownLimits(f"the measuring program does not run: {error}") from error
    rates = {name: float(value) * 1e9 for name, value in (line.split() for line in done.stdout.splitlines())}
    peaks = {name.split("_")[0]: rate for name, rate in rates.items() if name.endswith("_Gop_per_s")}
    return MachineLimits(threads, rates["read_GB_per_s"], peaks)


def _program() -> Path:
    """The compiled loops: for this CPU, compiled once."""
    try:
        zig = zig_command()
    except InflightError as error:
        raise UnknownLimits(error.message) from error
    facts = "\n".join([*zig, platform.node(), _cpu_name()]).encode()
    key = hashlib.sha256(SOURCE.read_bytes() + facts).hexdigest()[:16]
    program = user_cache_dir() / "bench" / f"limits-{key}"
    if program.exists():
        return program
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
            made = Path(scratch) / "limits"
            command = [*zig, "cc", "-O3", "-march=native", "-pthread", "-o", str(made), str(SOURCE)]
            subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=_COMPILE_S, env=zig_environment()
            )
            os.replace(made, program)
    except subprocess.CalledProcessError as error:
        raise UnknownLimits(f"the measuring program does not compile: {error.stderr.strip()[-400:]}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise UnknownLimits(f"the measuring program cannot be compiled: {error}") from error
    return program


def _cpu_name() -> str:
    """What -march=native depends on, for machines that share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))

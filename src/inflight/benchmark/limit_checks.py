"""Second ways to know the limits, and what exceeds them: a limit that is too low makes every share of it a lie."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from inflight.benchmark.machine_limits import MachineLimits
from inflight.errors import InflightError

# The best of some short measurements is itself measured, so a share may be above 1 by as much as those differ.
TOLERANCE = 1.03
# Two ways that agree are within a factor of this: the clock falls with wide vectors, a library's product has its edges.
_AGREEMENT = 0.6
_LIBRARY_S = 60
# Multiply-add units and float32 lanes of the plainest machine with vectors that the kernels are compiled for.
_UNITS, _LANES = 2, {"x86_64": 8, "AMD64": 8}
_PRODUCT = """
import time, numpy
a = numpy.ones((1536, 1536), numpy.float32)
a @ a
def seconds():
    start = time.perf_counter()
    a @ a
    return time.perf_counter() - start
print(2 * 1536 ** 3 / min(seconds() for _ in range(5)))
"""


class LimitExceeded(InflightError):
    """Something was faster than the limit that it is held to: that limit is wrong, and every share of it."""


@dataclass(frozen=True, slots=True)
class Share:
    """What was measured, its share of a limit (1: exactly as fast), and that limit in words."""

    what: str
    share: float
    limit: str

    @property
    def above(self) -> bool:
        return self.share > TOLERANCE


def check_shares(shares: Sequence[Share]) -> None:
    """Raises LimitExceeded naming everything above its limit by more than the tolerance, and those limits."""
    above = [share for share in shares if share.above]
    if above:
        lines = [f"{share.what}: {share.share:.0%} of what {share.limit} allows" for share in above]
        raise LimitExceeded(
            "A measured limit of the machine is too low: nothing can be above 100 % (the measurement itself differs by "
            f"up to {TOLERANCE - 1:.0%}).\n" + "\n".join(lines),
            "Measure again with nothing else on the machine: the limits are measured between the runs, and what slows "
            "it just then lowers them. If it stays, the limit's loop (benchmark/mixes.h) is slower than the machine.",
        )


@dataclass(frozen=True, slots=True)
class FloatPeaks:
    """float32 operations a second in three ways: the loop of limits.c, a library's matrix product (None where it does
    not run), and the clock times what the plainest machine does in a cycle, which is the least that there can be."""

    measured: float
    library: float | None
    by_clock: float

    def warnings(self) -> list[str]:
        """What does not agree, in words; empty when all do."""
        found = []
        if self.library is not None and self.library > TOLERANCE * self.measured:
            found.append("NumPy's matrix product is faster than the measured float32 limit, so that limit is too low")
        elif self.library is not None and self.library < _AGREEMENT * self.measured:
            found.append("NumPy's matrix product is far below the measured float32 limit: did something else run?")
        if self.measured < _AGREEMENT * self.by_clock:
            found.append("the measured float32 limit is far below clock x units x lanes, so it may be too low")
        return found

    def __str__(self) -> str:
        library = "no library" if self.library is None else f"NumPy's product {self.library / 1e9:,.0f}"
        return f"float32 {self.measured / 1e9:,.0f} Gop/s measured; {library}, by the clock {self.by_clock / 1e9:,.0f}"


def float_peaks(limits: MachineLimits) -> FloatPeaks:
    """The float32 limit beside the two other ways; about a second."""
    lanes = _LANES.get(platform.machine(), 4)
    by_clock = limits.clock * _UNITS * lanes * 2 * limits.threads
    return FloatPeaks(limits.peaks["float32"], _library_product(limits.threads), by_clock)


def _library_product(threads: int) -> float | None:
    """float32 operations a second of NumPy's matrix product, in a process with that many threads."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    command = [sys.executable, "-c", _PRODUCT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_LIBRARY_S, env=environment)
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None

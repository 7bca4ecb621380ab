"""The limits of this machine, measured: bytes read per second, and operations per second by type."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inflight.build.targets.cpu.compiler.toolchain import zig_command, zig_environment
from inflight.errors import InflightError
from inflight.files.cache import user_cache_dir
from inflight.files.scratch import remove_stale, scratch_directory
from inflight.machine.resources import available_memory

SOURCES = tuple(Path(__file__).with_name(name) for name in ("limits.c", "mixes.h", "tiles.h"))
# Of the narrowest type first: what is exact in a wider type can be computed in it, so no type's peak is below that of a
# wider one. (Sums are float32 or int32 for all of them.)
WIDER = ("int8", "bfloat16", "float32")
# Of rows: the type in which they may be multiplied, and how many products of it one of theirs takes.
MADE_OF = {"int16": ("int8", 2), "float8_e4m3fn": ("bfloat16", 1)}
NATIVE_FLAGS = ("-march=native",)
_COMPILE_S, _RUN_S = 120, 120
_LEAST_MEMORY, _MOST_MEMORY = 512 << 20, 2 << 30
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class UnknownLimits(InflightError):
    """The limits cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Rates a second, all threads together.

    `read` in bytes: from memory, or from the caches where those hold the working set that was asked about. `peaks` in
    operations (a multiply and an add are two) by the type of a product's inputs: the fastest of `mixes`, which are
    named "TYPE INSTRUCTIONS", or of a wider type. `clock` in cycles, of one thread; 0 where unknown.
    """

    threads: int
    read: float
    peaks: Mapping[str, float]
    mixes: Mapping[str, float] = field(default_factory=dict)
    clock: float = 0.0

    def peak(self, dtype: str) -> float:
        """The peak of products whose inputs have this type. Types that `peaks` has not are multiplied in float32, or as
        MADE_OF says where that is faster.
        """
        if dtype in self.peaks:
            return self.peaks[dtype]
        narrower, products = MADE_OF.get(dtype, ("float32", 1))
        return max(self.peaks["float32"], self.peaks.get(narrower, 0.0) / products)

    @property
    def peaks_text(self) -> str:
        """The peaks in words."""
        return ", ".join(f"{dtype} {value / 1e9:,.0f}" for dtype, value in self.peaks.items()) + " Gop/s"

    def at_best(self, other: MachineLimits) -> MachineLimits:
        """The larger of both, limit by limit: whatever else ran on the machine only lowers them."""
        read, clock = max(self.read, other.read), max(self.clock, other.clock)
        return MachineLimits(self.threads, read, _best(self.peaks, other.peaks), _best(self.mixes, other.mixes), clock)

    def as_dict(self) -> dict[str, float]:
        """GB/s, GHz and Gop/s; those of the mixes under their own names."""
        rates = {f"{dtype}_Gop_per_s": value / 1e9 for dtype, value in self.peaks.items()}
        mixes = {name: value / 1e9 for name, value in self.mixes.items()}
        return {"read_GB_per_s": self.read / 1e9} | rates | {"clock_GHz": self.clock / 1e9} | mixes


def _best(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in [*one, *(set(other) - set(one))]}


def measure_limits(threads: int, working_set: int = 0) -> MachineLimits:
    """Run the loops of limits.c on `threads` threads; some seconds. `working_set`: bytes that are read again and again,
    0 for more than any cache holds. Raises UnknownLimits when the loops cannot be compiled or run."""
    return read_limits(_run(threads, working_set), threads)


def measure_reading(threads: int, working_set: int = 0) -> float:
    """Bytes a second alone, as `measure_limits` has them in `read`; under a second, to be asked between measurements of
    a machine whose bandwidth changes. Raises UnknownLimits."""
    return _read_rate(_rates(_run(threads, working_set, "read")))


def read_limits(text: str, threads: int) -> MachineLimits:
    """From the lines that limits.c prints."""
    rates = _rates(text)
    mixes = {name: rate for name, rate in rates.items() if name.split()[0] in WIDER}
    peaks = {
        dtype: max(rate for name, rate in mixes.items() if name.split()[0] in WIDER[place:])
        for place, dtype in reversed(list(enumerate(WIDER)))
    }
    return MachineLimits(threads, _read_rate(rates), peaks, mixes, rates["clock cycles"])


def _rates(text: str) -> dict[str, float]:
    return {f"{kind} {name}": float(rate) * 1e9 for kind, name, rate in map(str.split, text.splitlines())}


def _read_rate(rates: Mapping[str, float]) -> float:
    return max(rate for name, rate in rates.items() if name.startswith("read "))


def _run(threads: int, working_set: int, *what: str) -> str:
    memory = _memory_bytes()
    command = [str(_program()), str(threads), str(memory), str(working_set if working_set < memory else 0), *what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_RUN_S)
    except subprocess.CalledProcessError as error:
        raise UnknownLimits(f"the measuring program failed: {error.stderr.strip() or error}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise UnknownLimits(f"the measuring program does not run: {error}") from error
    return done.stdout


def compile_limits(output: Path, flags: Sequence[str], *, assembly: bool = False) -> None:
    """Compile limits.c for the CPU that `flags` name, or to assembly. Raises UnknownLimits with the compiler's
    words."""
    try:
        # Some models ask for half-width vectors; the limit is that of the whole width.
        wide = ["-mprefer-vector-width=512"] if platform.machine() == "x86_64" and "-target" not in flags else []
        command = [*zig_command(), "cc", *flags, *wide, "-std=gnu11", "-O3", "-Wall", "-Wextra"]
        command += ["-S"] if assembly else ["-pthread"]
        command += ["-o", str(output), str(SOURCES[0])]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_COMPILE_S, env=zig_environment())
    except subprocess.CalledProcessError as error:
        raise UnknownLimits(f"the measuring program does not compile: {error.stderr.strip()[-400:]}") from error
    except InflightError as error:
        raise UnknownLimits(error.message) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise UnknownLimits(f"the measuring program cannot be compiled: {error}") from error


def _program() -> Path:
    """The compiled loops: for this CPU, compiled once."""
    try:
        facts = "\n".join([*zig_command(), *NATIVE_FLAGS, platform.node(), _cpu_name()]).encode()
        key = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES) + facts).hexdigest()[:16]
        program = user_cache_dir() / "bench" / f"limits-{key}"
        if program.exists():
            return program
        program.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(program.parent, "limits")
        with scratch_directory(program.parent, "limits") as scratch:
            made = scratch / "limits"
            compile_limits(made, NATIVE_FLAGS)
            os.replace(made, program)
    except InflightError as error:
        raise UnknownLimits(error.message) from error
    except OSError as error:
        raise UnknownLimits(f"the measuring program cannot be kept: {error}") from error
    return program


def _memory_bytes() -> int:
    """Far more than the caches hold, and no more than a quarter of what is free."""
    sizes = [path.read_text().strip() for path in _CACHES.glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    largest = max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)
    return min(max(_LEAST_MEMORY, 4 * largest), _MOST_MEMORY, max(available_memory() // 4, 1 << 20))


def _cpu_name() -> str:
    """What -march=native depends on, for machines that share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))

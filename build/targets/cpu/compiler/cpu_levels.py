"""CPU levels: compiler options, and the features that a machine needs to run the result."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Sequence

from inflight.build.targets.cpu.compiler.toolchain import zig_command, zig_environment
from inflight.errors import BuildError
from inflight.machine.tiles import ask_for_tiles, needs_tiles
from inflight.records import Record

NATIVE = "native"


class CpuLevel(Record):
    """One value of --cpu.

    `triple` and `zig_cpu` are for zig, `march` for another clang. `features` (the compiler's names) are all that its
    code may rely on; the loader checks them. The table runs from the best level of an architecture to its baseline.
    """

    name: str
    triple: str
    zig_cpu: str
    march: tuple[str, ...]
    features: tuple[str, ...]


_V3 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_ICELAKE = (*_V4, "avx512bitalg", "avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512vnni", "avx512vpopcntdq", "gfni")
_ZEN4 = (*_ICELAKE, "avx512bf16")
_ZEN5 = (*_ZEN4, "avxvnni")
_SAPPHIRE_RAPIDS = (*_ZEN4, "avxvnni", "avx512fp16", "amx_tile", "amx_int8", "amx_bf16")
_ARMV8 = ("neon",)
_NEOVERSE_N1 = (*_ARMV8, "fullfp16", "dotprod", "lse")
_NEOVERSE_V1 = (*_NEOVERSE_N1, "sve", "bf16", "i8mm")

# The oldest version that distributions in use have.
_X86 = "x86_64-linux-gnu.2.17"
_ARM = "aarch64-linux-gnu.2.17"
# Some models ask for half-width vectors; the kernels are written for the whole width.
_WIDE = "-prefer_256_bit"


def _x86(name: str, zig_cpu: str, features: tuple[str, ...]) -> CpuLevel:
    march = zig_cpu.removesuffix(_WIDE).replace("x86_64_", "x86-64-").replace("_", "-")
    flags = (f"-march={march}", "-mprefer-vector-width=512")
    return CpuLevel(name=name, triple=_X86, zig_cpu=zig_cpu, march=flags, features=features)


def _arm(name: str, zig_cpu: str, features: tuple[str, ...], triple: str = _ARM) -> CpuLevel:
    flags = (f"-mcpu={zig_cpu.replace('_', '-')}",)
    return CpuLevel(name=name, triple=triple, zig_cpu=zig_cpu, march=flags, features=features)


LEVELS: tuple[CpuLevel, ...] = (
    _x86("sapphirerapids", "sapphirerapids" + _WIDE, _SAPPHIRE_RAPIDS),
    _x86("znver5", "znver5", _ZEN5),
    _x86("znver4", "znver4", _ZEN4),
    _x86("icelake-server", "icelake_server" + _WIDE, _ICELAKE),
    _x86("x86-64-v4", "x86_64_v4" + _WIDE, _V4),
    _x86("x86-64-v3", "x86_64_v3", _V3),
    _arm("neoverse_v1", "neoverse_v1", _NEOVERSE_V1),
    _arm("neoverse_n1", "neoverse_n1", _NEOVERSE_N1),
    _arm("aarch64", "generic", _ARMV8),
    _arm("apple_m1", "apple_m1", (*_NEOVERSE_N1, "sha3"), "aarch64-macos.11.0"),
)


def find_level(name: str) -> CpuLevel:
    """The level of that name; hyphens and underscores are alike. Raises BuildError naming the levels there are."""
    if name == NATIVE:
        return native_level()
    for level in LEVELS:
        if level.name.replace("-", "_") == name.lower().replace("-", "_"):
            return level
    raise BuildError(
        f"--cpu {name} is not known.", f"Choose from {NATIVE}, {', '.join(level.name for level in LEVELS)}."
    )


def resolve_levels(names: Sequence[str]) -> tuple[CpuLevel, ...]:
    """The named levels, each once, the best first: the loader takes the first that the machine can run.

    Raises BuildError for a name that is not known, or when there is none.
    """
    if not names:
        raise BuildError("No CPU level is named.", f"Give --cpu {NATIVE}, or the level of another machine.")
    wanted = {find_level(name).name for name in names}
    return tuple(level for level in LEVELS if level.name in wanted)


def native_level() -> CpuLevel:
    """The best level of this machine. Raises BuildError when it is below the baseline."""
    triple, model, features = describe_native()
    for level in LEVELS:
        if level.triple.split(".")[0].split("-")[:2] == triple and set(level.features) <= features:
            return level
    raise BuildError(
        f"This machine's CPU ({model}, {'-'.join(triple)}) is below every level that the cpu target knows.",
        "Name the machine that shall run the engine with --cpu; x86-64-v3 (AVX2 and FMA) is the plainest of x86-64.",
    )


@functools.cache
def describe_native() -> tuple[list[str], str, frozenset[str]]:
    """[architecture, system], the CPU model and the features that a process may use, in the compiler's words."""
    command = [*zig_command(), "build-exe", "--show-builtin", "-target", "native"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=zig_environment()).stdout
    architecture = _first(r"\.arch = \.(\w+)", text)
    system = _first(r"pub const os\b.*?\.tag = \.(\w+)", text)
    model = _first(r"\.model = &std\.Target\.\w+\.cpu\.(\w+)", text)
    listing = _first(r"\.features = std\.Target\.\w+\.featureSet\(&\.\{(.*?)\}\)", text)
    features = frozenset(re.findall(r'\.@?"?(\w+)', listing))
    if needs_tiles(features) and ask_for_tiles() is not None:
        features = frozenset(name for name in features if not needs_tiles([name]))
    return [architecture, system], model, features


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.DOTALL)
    assert match is not None, f"the compiler's description of this machine has no {pattern}"
    return match.group(1)

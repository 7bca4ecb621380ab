"""The features of this machine's CPU, and the compiled variant of an engine that it can run."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inflight.engine_format.cpu_facts import Variant
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import EngineError
from inflight.machine.tiles import ask_for_tiles, needs_tiles
from inflight.runtime.loading.rebuild import rebuild_hint

_CPUINFO = Path("/proc/cpuinfo")
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
_SYSTEMS = {"darwin": "macos"}

# Where Linux or macOS and the compiler disagree about a name; both sides are brought to the compiler's.
_SAME = {
    "pni": "sse3",
    "abm": "lzcnt",
    "bmi1": "bmi",
    "avx10": "avx",  # macOS writes AVX1.0
    "cx16": "cmpxchg16b",
    "asimd": "neon",
    "advsimd": "neon",
    "asimdhp": "fullfp16",
    "fp16": "fullfp16",
    "asimddp": "dotprod",
    "atomics": "lse",
}


@dataclass(frozen=True)
class Machine:
    """Architecture and system in the words of a compiler triple, the CPU's name, and its normalized features."""

    architecture: str
    system: str
    cpu: str
    features: frozenset[str]


def normalize_feature(name: str) -> str:
    """One spelling for what is written avx512_bf16, avx512bf16 or AVX512-BF16; sse4_1 or sse4.1."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("feat_"))
    return _SAME.get(plain, plain)


def this_machine() -> Machine:
    architecture = platform.machine().lower()
    system = platform.system().lower()
    names, cpu = _macos_features() if system == "darwin" else _linux_features()
    return Machine(
        _ARCHITECTURES.get(architecture, architecture),
        _SYSTEMS.get(system, system),
        cpu or platform.processor() or architecture,
        frozenset(map(normalize_feature, names)),
    )


def choose_variant(
    variants: Sequence[Variant],
    manifest: EngineManifest,
    directory: Path,
    machine: Machine | None = None,
    ask: Callable[[], str | None] = ask_for_tiles,
) -> Variant:
    """The first variant of rank 0 that `machine` (this one) can run.

    For a variant that needs AMX tiles, and for no other, the system is first asked for them with `ask`, which returns
    None or why they are refused. Raises EngineError with what is missing and the command that builds for this machine.
    """
    machine = machine or this_machine()
    reasons = []
    for variant in variants:
        problem = _problem(variant, machine, ask)
        if problem is None and variant.rank == 0:
            return variant
        reasons.append(f"its {variant.cpu} code {problem}")
    why = "; ".join(reasons) or "it holds no code"
    raise EngineError(
        f"{directory} cannot run on this machine ({machine.cpu}, {machine.architecture} {machine.system}): {why}.",
        rebuild_hint(manifest.recipe, manifest.target, directory, cpu="native"),
    )


def _problem(variant: Variant, machine: Machine, ask: Callable[[], str | None]) -> str | None:
    architecture, system, *_ = variant.triple.split("-")
    if (architecture, system.split(".")[0]) != (machine.architecture, machine.system):
        return f"is for {architecture} {system}"
    missing = [name for name in variant.required_features if normalize_feature(name) not in machine.features]
    if missing:
        return f"needs {', '.join(missing)}, which this CPU lacks"
    refused = ask() if needs_tiles(variant.required_features) else None
    return f"needs AMX tiles, which the system refuses ({refused})" if refused else None


def _linux_features() -> tuple[list[str], str]:
    """The flags of /proc/cpuinfo: `flags` on x86-64, `Features` on aarch64."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return [], ""
    fields: dict[str, str] = dict(re.findall(r"^([^\t:]+)\t*: *(.*)$", text, re.MULTILINE))
    names = fields.get("flags", fields.get("Features", "")).split()
    return names, fields.get("model name", "")


def _macos_features() -> tuple[list[str], str]:
    """Intel: the feature words of machdep.cpu. Apple silicon: the hw.optional.arm keys that are 1."""
    command = ["sysctl", "machdep.cpu", "hw.optional"]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    fields: dict[str, str] = dict(re.findall(r"^([\w.]+): *(.*)$", text, re.MULTILINE))
    names = [
        name.rsplit(".", 1)[1] for name, value in fields.items() if name.startswith("hw.optional") and value == "1"
    ]
    for name in ("machdep.cpu.features", "machdep.cpu.leaf7_features", "machdep.cpu.extfeatures"):
        names += fields.get(name, "").split()
    return names, fields.get("machdep.cpu.brand_string", "")

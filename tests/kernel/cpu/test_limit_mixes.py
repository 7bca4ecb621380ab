"""The loops that measure the machine's limits: the instructions that a CPU is for, on registers alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.benchmark.machine_limits import NATIVE_FLAGS, WIDER, compile_limits, read_limits
from inflight.build.targets.cpu.compiler.cpu_levels import LEVELS, CpuLevel, find_level
from inflight.runtime.executors.cpu.features import normalize_feature, this_machine
from tests.network.support import chosen, some_of

pytestmark = pytest.mark.kernel

# Function -> the instruction that it is there for, at the level that it is there for.
MIXES = {
    "x86-64-v3": {
        "float32_fma": "vfmadd231ps",
        "bfloat16_widened": "vfmadd231ps",
        "int8_byte_pairs": "vpmaddubsw",
        "int8_word_pairs": "vpmaddwd",
    },
    "icelake-server": {"float32_fma": "vfmadd231ps", "bfloat16_widened": "vfmadd231ps", "int8_dot": "vpdpbusd"},
    "znver4": {"float32_fma": "vfmadd231ps", "bfloat16_dot": "vdpbf16ps", "int8_dot": "vpdpbusd"},
    "sapphirerapids": {"bfloat16_dot": "vdpbf16ps", "bfloat16_tiles": "tdpbf16ps", "int8_tiles": "tdpbusd"},
    "neoverse_v1": {
        "float32_fma": "fmla",
        "bfloat16_dot": "bfdot",
        "bfloat16_matrix": "bfmmla",
        "int8_matrix": "smmla",
    },
    "neoverse_n1": {"float32_fma": "fmla", "int8_dot": "sdot"},
}
# Where the product goes to a register of its own, and the sum is another instruction.
SUMS = {"int8_byte_pairs": "vpaddd", "int8_word_pairs": "vpaddd"}
# Sums at once: of the 16 registers of AVX2, of 32, of the eight tiles.
CHAINS_V3, CHAINS, TILE_CHAINS = 12, 24, 6


def flags(level: CpuLevel) -> list[str]:
    return ["-target", level.triple, f"-mcpu={level.zig_cpu}"]


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_is_made_of_its_instruction_in_chains_that_stay_in_registers(name: str, tmp_path: Path) -> None:
    compile_limits(tmp_path / "limits.s", flags(find_level(name)), assembly=True)
    text = (tmp_path / "limits.s").read_text()
    for function, instruction in MIXES[name].items():
        loop = innermost_loop(text, function)
        chains = TILE_CHAINS if "tiles" in function else CHAINS_V3 if name == "x86-64-v3" else CHAINS
        products = [line for line in loop if line.split()[0].startswith(instruction)]
        assert len(products) >= chains, (function, loop)
        sums = [line for line in loop if line.split()[0].startswith(SUMS.get(function, instruction))]
        assert len({target(line) for line in sums}) == chains, (function, loop)
        assert not [line for line in loop if re.search(r"%[re][sb]p\b|\[sp\b|\[x29\b", line)], (function, loop)
        widest = "%ymm" if name == "x86-64-v3" else "%zmm"
        assert "neoverse" in name or "tiles" in function or all(widest in line for line in products), (function, loop)


def target(line: str) -> str:
    """The register that an instruction writes: the last in the notation of x86, the first in that of ARM."""
    operands: list[str] = re.findall(r"%\w+|\bv\d+", line)
    return operands[-1] if "%" in line else operands[0]


def innermost_loop(text: str, function: str) -> list[str]:
    """The instructions between a label and the last jump back to it, the longest such of the function."""
    lines = text.split(f"\n{function}:")[1].split(".Lfunc_end")[0].splitlines()
    labels = {line[: line.index(":")]: place for place, line in enumerate(lines) if re.match(r"\.L\w+:", line)}
    loops = [
        lines[labels[target] : place]
        for place, line in enumerate(lines)
        for target in re.findall(r"\.L\w+", line)
        if target in labels and labels[target] < place and not line.startswith(".")
    ]
    longest = max(loops, key=len)
    return [line for line in longest if line.startswith("\t") and not line.startswith("\t.") and line.strip()[0] != "#"]


def here() -> list[CpuLevel]:
    features = this_machine().features
    return [level for level in LEVELS if set(map(normalize_feature, level.features)) <= features]


@pytest.mark.parametrize("level", [None, *some_of(1, here())])
def test_every_type_has_a_limit_of_its_own_on_every_cpu(level: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    """Of this machine as it is, and of one of the levels that it has."""
    level = chosen(level, rng)
    compile_limits(tmp_path / "limits", flags(level) if level else NATIVE_FLAGS)
    command = [str(tmp_path / "limits"), "1", str(1 << 20), str(1 << 16)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    limits = read_limits(shown, 1)
    assert {name.split()[0] for name in limits.mixes} == set(WIDER) == set(limits.peaks)
    assert limits.peaks["int8"] >= limits.peaks["bfloat16"] >= limits.peaks["float32"] > 0
    assert limits.read > 0 and limits.clock > 0

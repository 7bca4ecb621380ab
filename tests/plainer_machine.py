"""This machine as a plainer one: INFLIGHT_TEST_CPU=x86-64-v3 runs the tests as on a machine without AVX-512.

The name is one of --cpu. It becomes the native level of what tests build in this process, and all that their loader
finds in the processor; libraries that choose their code by the processor are told as much. What a test builds or loads
in a process of its own is for the real machine.
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace

VARIABLE = "INFLIGHT_TEST_CPU"

# NumPy, its BLAS, and torch with oneDNN and MKL. Each reads its own when it is first imported.
_LIBRARIES = {
    "x86-64-v3": {
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}


def restrict_libraries() -> None:
    """Before any of them is imported; child processes inherit it."""
    name = os.environ.get(VARIABLE)
    if name is not None:
        assert "numpy" not in sys.modules, f"NumPy was imported before {VARIABLE} was read"
        for variable, value in _LIBRARIES.get(name, {}).items():
            os.environ.setdefault(variable, value)


def restrict_native_level() -> None:
    """Before a test module is imported: some look for levels while they are collected."""
    name = os.environ.get(VARIABLE)
    if name is None:
        return
    from inflight.build.targets.cpu.compiler import cpu_levels
    from inflight.machine import tiles as tile_permission
    from inflight.runtime.executors.cpu import features

    level = cpu_levels.find_level(name)
    describe, this_machine = cpu_levels.describe_native, features.this_machine

    def describe_less() -> tuple[list[str], str, frozenset[str]]:
        system, model, found = describe()
        return system, model, found & set(level.features)

    def lesser_machine() -> features.Machine:
        machine = this_machine()
        return replace(machine, features=machine.features & set(map(features.normalize_feature, level.features)))

    if not tile_permission.needs_tiles(level.features):
        tile_permission.ask_for_tiles = lambda: f"{VARIABLE} is {name}"
    cpu_levels.describe_native = functools.cache(describe_less)
    features.this_machine = lesser_machine

"""Each level's products are made of the instructions for which the level is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from inflight.build.targets.cpu.compile import KERNELS
from inflight.build.targets.cpu.cpu_levels import find_level
from inflight.build.targets.cpu.toolchain import zig_command, zig_environment

pytestmark = pytest.mark.kernel

SOURCE = """
#include "qtile.h"
void floats(const void *a, const void *b, float *c) { tile_product(BF16, 6, 64, 64, a, 64, b, 128, c, 64, 0); }
void integers(const int8_t *a, const uint8_t *b, i32x16 *c) { *c = add_dots(8, *c, byte_weights(b), splat_quad(a)); }
"""


@pytest.mark.parametrize(
    ("level", "instructions"),
    [
        ("znver4", {"vdpbf16ps", "vpdpbusd"}),
        ("sapphirerapids", {"vdpbf16ps", "vpdpbusd"}),
        ("icelake-server", {"vfmadd231ps", "vpdpbusd"}),
        ("x86-64-v3", {"vfmadd231ps", "vpmaddwd"}),
        ("neoverse_v1", {"bfdot", "usdot"}),
        ("neoverse_n1", {"fmla", "sdot"}),
    ],
)
def test_products_use_what_their_level_has(level: str, instructions: set[str], tmp_path: Path) -> None:
    target = find_level(level)
    flags = ["-target", target.triple, f"-mcpu={target.zig_cpu}", "-std=gnu11", "-O2", f"-I{KERNELS}"]
    source, assembly = tmp_path / "products.c", tmp_path / "products.s"
    source.write_text(SOURCE)
    command = [*zig_command(), "cc", *flags, "-S", str(source), "-o", str(assembly)]
    subprocess.run(command, check=True, env=zig_environment())
    assert instructions <= set(assembly.read_text().split())

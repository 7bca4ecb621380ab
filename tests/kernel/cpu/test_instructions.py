"""Each level's products are made of the instructions for which the level is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from inflight.build.targets.cpu.compiler.compile import KERNELS
from inflight.build.targets.cpu.compiler.cpu_levels import find_level
from inflight.build.targets.cpu.compiler.toolchain import zig_command, zig_environment

pytestmark = pytest.mark.kernel

SOURCE = """
#include "qtile.h"
void floats(const void *a, const void *b, float *c) { tile_product(BF16, 6, 64, 64, a, 64, b, 128, c, 64, 0); }
void integers(const int8_t *a, const uint8_t *b, i32x16 *c) { *c = add_dots(8, *c, byte_weights(b), splat_quad(a)); }
"""
OPERATORS = """
#include "qlinear.h"
void floats(pool *p, const void *x, const void *w, float *y) { linear(p, 0, BF16, 100, 64, 50, x, w, 0, 0, y); }
void integers(pool *p, const void *x, const float *s, const void *w, float *y) {
    quantized_linear(p, 0, (quantized_shape){8, F32, {1, 100, 100}}, 64, 50, x, s, w, 0, 0, y);
}
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
    assert instructions <= set(_assembly(SOURCE, level, tmp_path).split())


@pytest.mark.parametrize(("function", "product"), [("floats", "tdpbf16ps"), ("integers", "tdpbsud")])
def test_operators_of_sapphire_rapids_configure_tiles_multiply_them_and_let_them_go(
    function: str, product: str, tmp_path: Path
) -> None:
    text = _assembly(OPERATORS, "sapphirerapids", tmp_path)
    body = text.split(f"\n{function}:")[1].split(".Lfunc_end")[0].split()
    assert {"ldtilecfg", "tilezero", "tileloadd", product, "tilestored", "tilerelease"} <= set(body)
    assert "vdpbf16ps" not in body, "one arithmetic for any number of rows"


def test_a_level_without_tiles_uses_none(tmp_path: Path) -> None:
    words = set(_assembly(OPERATORS, "znver4", tmp_path).split())
    assert {"vdpbf16ps", "vpdpbusd"} <= words
    assert not words & {"ldtilecfg", "tilezero", "tileloadd", "tilestored", "tdpbf16ps", "tdpbsud", "tilerelease"}


def _assembly(text: str, level: str, directory: Path) -> str:
    target = find_level(level)
    flags = ["-target", target.triple, f"-mcpu={target.zig_cpu}", "-std=gnu11", "-O2", f"-I{KERNELS}"]
    source, assembly = directory / "products.c", directory / "products.s"
    source.write_text(text)
    command = [*zig_command(), "cc", *flags, "-S", str(source), "-o", str(assembly)]
    subprocess.run(command, check=True, env=zig_environment())
    return assembly.read_text()

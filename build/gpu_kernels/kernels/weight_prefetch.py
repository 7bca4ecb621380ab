"""First weights, brought to the second-level cache before the product that reads them can begin.

A product does so while the launch before it still runs. Nothing writes weights between launches, so they may be asked
for before the wait; all else lies behind it, which `early_launch` checks in the compiled kernel. Before sm_90 a launch
begins when the one before it has ended, and the weights are asked for all the same, at once. Which experts a step has
is known to launches in front of their products, which ask in their place (`prefetch_expert`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.early_launch import MARKER

# Scalars have no operand, so the marker names its register, which nothing reads.
_MARKER = tl.constexpr(f"{MARKER}, $0")
_PREFETCH = tl.constexpr("prefetch.global.L2 [$1]; mov.b32 $0, 0;")
# What memory sends at once, and how much of a line of weights is asked for, in bytes.
_SECTOR = tl.constexpr(128)
_MOST = tl.constexpr(512)
# Bytes of all experts together: a part of the second-level cache, which has 6 MiB on sm_86 and 40 to 126 on others.
_MOST_OF_EXPERTS = tl.constexpr(8 << 20)
_LINES = tl.constexpr(128)


@triton.jit
def awaited():
    """From here on all that earlier launches have written is there. Once in a kernel, outside of branches and loops."""
    tl.inline_asm_elementwise(_MARKER, "=r", [], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def prefetch(weight, line, first, row_size: tl.constexpr, own: tl.constexpr):
    """Ask for the first of the `own` elements from `first` on that the program reads of each line.

    weight: pointer to lines of `row_size` elements; line int [block_n]: numbers of lines that are there. Nothing is
    asked for behind the end of a line.
    """
    size: tl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
    sectors: tl.constexpr = (own * size + _SECTOR - 1) // _SECTOR
    most: tl.constexpr = _MOST // _SECTOR
    count: tl.constexpr = most if sectors >= most else 2 if sectors >= 2 else 1
    at = tl.minimum(first + tl.arange(0, count) * (_SECTOR // size), row_size - 1)
    places = weight + line.to(tl.int64)[:, None] * row_size + at[None, :]
    tl.inline_asm_elementwise(_PREFETCH, "=r,l", [places.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def prefetch_expert(weight, expert, part, parts, pairs, lines: tl.constexpr, row_size: tl.constexpr):
    """Ask for the beginnings of an expert's lines, of which a program takes the `part`-th of `parts`.

    weight: pointer to the lines of all experts, `lines` of `row_size` elements each; pairs: how many pairs of a row and
    an expert there are. The more, the less of each line is asked for, in the end nothing.
    """
    size: tl.constexpr = weight.dtype.element_ty.primitive_bitwidth // 8
    most: tl.constexpr = _MOST if row_size * size > _MOST else row_size * size
    own = weight + expert.to(tl.int64) * (lines * row_size)
    for first in range(part * _LINES, lines, parts * _LINES):
        line = tl.minimum(first + tl.arange(0, _LINES), lines - 1)
        for sector in tl.static_range((most + _SECTOR - 1) // _SECTOR):
            if pairs <= _MOST_OF_EXPERTS // ((sector + 1) * lines * _SECTOR):
                places = (own + line * row_size + sector * (_SECTOR // size)).to(tl.int64)
                tl.inline_asm_elementwise(_PREFETCH, "=r,l", [places], dtype=tl.int32, is_pure=False, pack=1)

"""What a product does while the launch before it still runs: it brings its first weights to the second-level cache.

Nothing writes weights between launches, so they may be asked for before the wait; all else lies behind it, which
`early_launch` checks in the compiled kernel. Before sm_90 a launch begins when the one before it has ended, and the
weights are asked for all the same, at once.
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

"""The token of the greatest logit of each row, found by the product that makes the logits: they are not written.

Every program of the product offers the greatest of its tile, and the greatest of these stays, in whatever order they
come; the lowest id is the greatest among equals. Numbers that are none count as in `sampling_math`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.sampling_math import INFINITY, place_of, sane, token_at
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant


@triton.jit
def offer_greatest(logits, greatest, row, line, rows, n):
    """greatest int64 [rows] becomes at least the place of the greatest of logits float32 [lines, rows], a tile of `n`
    lines. It is 0 before the first."""
    number = tl.where((line < n)[:, None], sane(logits), -INFINITY)
    most = tl.max(number, axis=0)
    # Lines past the end are the last ones of a tile.
    first = tl.min(tl.where(number == most[None, :], line[:, None], n), axis=0)
    tl.atomic_max(greatest + row, place_of(most, first), mask=row < rows, sem="relaxed")


@triton.jit
def greatest_tokens(greatest, tokens, rows, block: tl.constexpr):
    """tokens int32 [rows] of greatest int64 [rows], which becomes 0 for the next step."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    inside = row < rows
    tl.store(tokens + row, token_at(tl.load(greatest + row, mask=inside, other=0)), mask=inside)
    tl.store(greatest + row, tl.zeros((block,), tl.int64), mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=1, constants={"block": 128})


SPECS = (
    KernelSpec(
        module=__name__,
        function="greatest_tokens",
        arguments=(Argument("greatest", "*i64"), Argument("tokens", "*i32"), Argument("rows", "i32")),
        grid=((Extent("rows", "block"),),),
        tune=tune,
        variants=(Variant(),),
        decode_path=True,
    ),
)

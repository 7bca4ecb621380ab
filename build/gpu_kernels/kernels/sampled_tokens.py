"""Tokens that the step before has chosen, into the rows of this one: they need not have been read by then."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant


@triton.jit
def sampled_tokens(follows, tokens, token_ids, rows, block: tl.constexpr):
    """token_ids[row] = tokens[follows[row]] for the rows whose `follows` is not negative; the others keep theirs.

    follows, token_ids int32 [rows]; tokens int32 [any], the chosen tokens of the step before.
    """
    row = tl.program_id(0) * block + tl.arange(0, block)
    place = tl.load(follows + row, mask=row < rows, other=-1)
    there = place >= 0
    tl.store(token_ids + row, tl.load(tokens + place, mask=there, other=0), mask=there)


def tune(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=1, constants={"block": 128})


SPECS = (
    KernelSpec(
        module=__name__,
        function="sampled_tokens",
        arguments=(
            Argument("follows", "*i32"),
            Argument("tokens", "*i32"),
            Argument("token_ids", "*i32"),
            Argument("rows", "i32"),
        ),
        grid=((Extent("rows", "block"),),),
        tune=tune,
        variants=(Variant(),),
        decode_path=True,
    ),
)

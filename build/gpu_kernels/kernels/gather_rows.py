"""Rows of a table by their numbers: the embedding of tokens, and the rows whose logits are wanted."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant


@triton.jit
def gather_rows(indices, table, y, width: tl.constexpr, factor: tl.constexpr, block: tl.constexpr):
    """Program (row, part): y[row] = table[indices[row]] * factor, in `block` columns.

    indices int32 [rows], each a row of the table; table [any, width] and y [rows, width] of any float type.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    source = table + tl.load(indices + row).to(tl.int64) * width
    value = tl.load(source + columns, mask=inside, other=0.0).to(tl.float32) * factor
    tl.store(y + row * width + columns, value.to(y.dtype.element_ty), mask=inside)


def tune(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": 1024})


def gather_variant(width: int, *, table: str, y: str = "fp32", factor: float = 1.0) -> Variant:
    """For rows of `width`; a factor of 1 changes no bit."""
    return Variant({"table": table, "y": y}, {"width": width, "factor": factor})


SPECS = (
    KernelSpec(
        module=__name__,
        function="gather_rows",
        arguments=(Argument("indices", "*i32"), Argument("table", "*{table}"), Argument("y", "*{y}")),
        grid=((Extent("rows"),), (Extent("width", "block"),)),
        tune=tune,
        variants=(
            gather_variant(4096, table="bf16"),
            gather_variant(896, table="fp32"),
            gather_variant(2304, table="bf16", factor=48.0),
            gather_variant(4096, table="fp16", y="fp16"),
        ),
        decode_path=True,
    ),
)

"""Products of each head's part of a row with a matrix of that head, as latent attention has them."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, MANY_FLOAT32_ROWS, sums_of_split
from inflight.build.gpu_kernels.kernels.weight_prefetch import awaited, prefetch
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant

_MANY_ROWS = 64


@triton.jit
def head_linear(
    x,
    weight,
    y,
    rows,
    num_heads: tl.constexpr,
    n: tl.constexpr,
    k: tl.constexpr,
    row_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
):
    """Program (tile of rows and head, tile of weights): y float32 [rows, num_heads * n], of each head the product of
    the first k elements of its part of x [rows, num_heads * row_size] with weight [num_heads, n, k].

    x and weight have one type: bfloat16, float16 or float32. A row is summed over k in one order, whatever rows are
    beside it.
    """
    row = tl.program_id(0) // num_heads * block_rows + tl.arange(0, block_rows)
    line = tl.program_id(1) * block_n + tl.arange(0, block_n)
    head = (tl.program_id(0) % num_heads).to(tl.int64)
    shape: tl.constexpr = (n, k, k, block_rows, block_n, block_k)
    # One cut, all of k.
    own = weight + head * (n * k)
    prefetch(own, tl.minimum(line, n - 1), 0, k, k)
    awaited()
    sums = sums_of_split(x + head * row_size, own, row, line, rows, tl.program_id(2), shape, num_heads * row_size)
    at = (row.to(tl.int64) * num_heads + head)[None, :] * n + line[:, None]
    tl.store(y + at, sums, mask=(row < rows)[None, :] & (line < n)[:, None])


def tune(sm: int, variant: Variant) -> Tuning:
    wide, few = variant.types["x"] == "fp32", variant.constants["block_rows"] == FEW_ROWS
    blocks: dict[str, Constant] = {"block_n": 32 if wide and not few else 64, "block_k": 64}
    return Tuning(num_warps=4, num_stages=2, constants=blocks)


def head_variant(num_heads: int, n: int, k: int, row_size: int, *, few: bool, x: str = "bf16") -> Variant:
    """For weights (num_heads, n, k) and rows of num_heads * row_size. `few`: for at most FEW_ROWS rows."""
    constants: dict[str, Constant] = {"num_heads": num_heads, "n": n, "k": k, "row_size": row_size}
    constants["block_rows"] = FEW_ROWS if few else MANY_FLOAT32_ROWS if x == "fp32" else _MANY_ROWS
    return Variant({"x": x}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="head_linear",
        arguments=(Argument("x", "*{x}"), Argument("weight", "*{x}"), Argument("y", "*fp32"), Argument("rows", "i32")),
        grid=((Extent("rows", "block_rows"), Extent("num_heads")), (Extent("n", "block_n"),)),
        tune=tune,
        variants=(
            head_variant(128, 512, 128, 192, few=True),
            head_variant(128, 512, 128, 192, few=False),
            head_variant(128, 128, 512, 512, few=True),
            head_variant(128, 128, 512, 512, few=False),
            head_variant(20, 30, 33, 47, few=False, x="fp32"),
        ),
        decode_path=True,
    ),
)

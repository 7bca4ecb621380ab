"""Sums of products in one order: over the inner dimension in cuts, whose sums are added from first to last.

The weights are the left operand, so a tile of 16 rows costs what one row costs. The inner dimension is cut at multiples
of `split_k`, which the weights' shape decides. Two ways to add the sums of cuts have one order: with few rows each cut
has a program of its own, and the one that ends last adds them; with many rows one program walks all `cuts`. So a row's
result depends neither on other rows nor on their number, if a tensor core sums k alike whatever the size of its tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.weight_only import PROCESSORS
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, Tuning, Variant

# Rows of tiles. Those of few and of some rows have a program for each cut of the inner dimension.
FEW_ROWS = 16
SOME_ROWS = 64
MANY_ROWS = 128
# Without tensor cores the sums of larger tiles do not fit into registers.
MANY_FLOAT32_ROWS = 32
_BLOCK_N = 64
_BLOCK_K = 64
_BLOCKS_PER_PROCESSOR = 4
_LEAST_STEPS = 4
# Two tiles of some rows share what they read of weights; with more rows, tiles of many fill a GPU.
_MOST_OF_SOME = 2 * SOME_ROWS


@triton.jit
def sums_of_split(x, weight, row, line, rows, split, shape: tl.constexpr, row_size: tl.constexpr):
    """float32 [block_n, block_rows]: the part of the product between split * split_k and the next cut. Rows of x are
    `row_size` apart."""
    n: tl.constexpr = shape[0]
    k: tl.constexpr = shape[1]
    split_k: tl.constexpr = shape[2]
    block_k: tl.constexpr = shape[5]
    # Lines past the end read the last one, rows past the end read zeros; neither is stored.
    weights = weight + tl.minimum(line, n - 1).to(tl.int64)[:, None] * k
    inputs = x + row.to(tl.int64)[None, :] * row_size
    sums = tl.zeros((shape[4], shape[3]), tl.float32)
    for start in range(split * split_k, tl.minimum((split + 1) * split_k, k), block_k):
        at = start + tl.arange(0, block_k)
        if k % block_k == 0:
            left = tl.load(weights + at[None, :])
            right = tl.load(inputs + at[:, None], mask=(row < rows)[None, :], other=0.0)
        else:
            left = tl.load(weights + at[None, :], mask=(at < k)[None, :], other=0.0)
            right = tl.load(inputs + at[:, None], mask=(row < rows)[None, :] & (at < k)[:, None], other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
    return sums


@triton.jit
def places_of_tile(partial, splits: tl.constexpr, parts: tl.constexpr, block_rows: tl.constexpr, block_n: tl.constexpr):
    """Where the sums of this program's tile and of split 0 lie in `partial`."""
    tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    place = tl.arange(0, block_n)[:, None] * block_rows + tl.arange(0, block_rows)[None, :]
    return partial + tile.to(tl.int64) * (splits * parts * block_n * block_rows) + place


@triton.jit
def publish(
    sums,
    partial,
    arrived,
    splits: tl.constexpr,
    parts: tl.constexpr,
    block_rows: tl.constexpr,
    block_n: tl.constexpr,
):
    """Write this split's sums. (whether all have been written, where those of split 0 lie, from one split to the next)

    The last to arrive resets the count for the next launch.
    """
    area: tl.constexpr = parts * block_n * block_rows
    places = places_of_tile(partial, splits, parts, block_rows, block_n)
    tl.store(places + tl.program_id(2) * area, sums)
    tl.debug_barrier()
    tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    last = tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu") == splits - 1
    if last:
        tl.store(arrived + tile, 0)
    return last, places, area


@triton.jit
def gathered(places, area, splits: tl.constexpr, block_rows: tl.constexpr, block_n: tl.constexpr):
    """The sums of all splits, from first to last."""
    sums = tl.load(places, cache_modifier=".cg")
    for split in range(1, splits):
        sums += tl.load(places + split * area, cache_modifier=".cg")
    return sums


def row_tiles(x: str) -> tuple[tuple[int | None, int], ...]:
    """(the most rows of a launch, None: any number; the rows of its tiles) of each kernel of a product, for rows of the
    type `x`, i8 for levels and float8."""
    if x == "fp32":
        return (FEW_ROWS, FEW_ROWS), (None, MANY_FLOAT32_ROWS)
    return (FEW_ROWS, FEW_ROWS), (_MOST_OF_SOME, SOME_ROWS), (None, MANY_ROWS)


def tune(sm: int, variant: Variant, step: int = _BLOCK_K) -> Tuning:
    """Few rows: enough programs for every processor to have several, each with at least `_LEAST_STEPS` steps. Cuts are
    at multiples of `step`, too."""
    constants = variant.constants
    n, k, block_rows = int(constants["n"]), int(constants["k"]), int(constants["block_rows"])
    steps, tiles = -(-k // _BLOCK_K), -(-n // _BLOCK_N)
    wanted = max(1, min(_BLOCKS_PER_PROCESSOR * PROCESSORS[sm] // tiles, steps // _LEAST_STEPS))
    unit = max(step, _BLOCK_K)
    split_k = -(-(-(-steps // wanted) * _BLOCK_K) // unit) * unit
    splits, few, wide = -(-k // split_k), block_rows == FEW_ROWS, variant.types["x"] == "fp32"
    blocks: dict[str, Constant] = {
        "block_n": _BLOCK_N // 2 if wide and not few else _BLOCK_N if block_rows < MANY_ROWS else 2 * _BLOCK_N,
        "block_k": _BLOCK_K,
        "split_k": split_k,
        "splits": splits,
        "cuts": 1 if block_rows in (FEW_ROWS, SOME_ROWS) else splits,
    }
    stages = 2 if wide else 4 if few else 3
    return Tuning(num_warps=4 if block_rows < MANY_ROWS else 8, num_stages=stages, constants=blocks)


def workspace(variant: Variant, tuning: Tuning, rows: int, parts: int = 1) -> tuple[int, int]:
    """How many float32 `partial` and int32 `arrived` hold for up to `rows` rows and `parts` products at once; at least
    one each."""
    constants = {**variant.constants, **tuning.constants}
    if constants["cuts"] == constants["splits"]:
        return 1, 1
    block_n, block_rows = int(constants["block_n"]), int(constants["block_rows"])
    tiles = -(-int(constants["n"]) // block_n) * -(-rows // block_rows)
    return tiles * int(constants["splits"]) * parts * block_n * block_rows, tiles


GRID = ((Extent("rows", "block_rows"),), (Extent("n", "block_n"),), (Extent("splits", "cuts"),))
SHARED = (Argument("partial", "*fp32"), Argument("arrived", "*i32"), Argument("rows", "i32"))

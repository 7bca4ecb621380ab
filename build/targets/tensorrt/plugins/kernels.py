"""The cuda target's paged attention with its arguments in the order of a TensorRT plugin: inputs, integers, outputs.

`tensorrt.plugin` passes an ahead-of-time kernel its input tensors, then its scalars, then its output tensors, and
scalars are integers alone. A kernel asks for no more shared memory than every launch may have: nothing public says that
TensorRT raises the limit of a kernel that it was given.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.paged_decode import combine_splits, paged_decode, tune_combine, tune_decode
from inflight.build.gpu_kernels.kernels.paged_prefill import paged_prefill
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant

# What a block has without cudaFuncAttributeMaxDynamicSharedMemorySize.
SHARED_BYTES = 48 << 10


@triton.jit
def plugin_decode(
    q,
    key_cache,
    value_cache,
    positions,
    sequence_of_row,
    block_tables,
    block_table_stride,
    splits,
    partials,
    maxima,
    totals,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_size: tl.constexpr,
    tokens_per_block: tl.constexpr,
    scale: tl.constexpr,
    soft_cap: tl.constexpr,
    window: tl.constexpr,
    split_tokens: tl.constexpr,
    cache_format: tl.constexpr,
    native_float8: tl.constexpr,
    padded_head: tl.constexpr,
    padded_group: tl.constexpr,
    block_n: tl.constexpr,
):
    """`paged_decode` over a plain cache, which has no scales: nothing reads what stands in their place."""
    paged_decode(
        q,
        key_cache,
        value_cache,
        partials,
        partials,
        positions,
        sequence_of_row,
        block_tables,
        partials,
        maxima,
        totals,
        block_table_stride,
        splits,
        num_heads,
        num_kv_heads,
        head_size,
        tokens_per_block,
        scale,
        soft_cap,
        window,
        split_tokens,
        cache_format,
        native_float8,
        padded_head,
        padded_group,
        block_n,
    )


@triton.jit
def plugin_combine(
    q,
    partials,
    maxima,
    totals,
    positions,
    splits,
    y,
    num_heads: tl.constexpr,
    head_size: tl.constexpr,
    window: tl.constexpr,
    split_tokens: tl.constexpr,
    padded_head: tl.constexpr,
    chunk: tl.constexpr,
):
    """`combine_splits`; q is there for its type, which y has."""
    combine_splits(
        partials, maxima, totals, positions, y, splits, num_heads, head_size, window, split_tokens, padded_head, chunk
    )


@triton.jit
def plugin_prefill(
    q,
    key_cache,
    value_cache,
    positions,
    sequence_of_row,
    block_tables,
    tile_begins,
    tile_ends,
    block_table_stride,
    y,
    num_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    head_size: tl.constexpr,
    tokens_per_block: tl.constexpr,
    scale: tl.constexpr,
    soft_cap: tl.constexpr,
    window: tl.constexpr,
    cache_format: tl.constexpr,
    native_float8: tl.constexpr,
    padded_head: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
):
    """`paged_prefill` over a plain cache, which has no scales: nothing reads what stands in their place."""
    paged_prefill(
        q,
        key_cache,
        value_cache,
        y,
        y,
        positions,
        sequence_of_row,
        block_tables,
        tile_begins,
        tile_ends,
        y,
        block_table_stride,
        num_heads,
        num_kv_heads,
        head_size,
        tokens_per_block,
        scale,
        soft_cap,
        window,
        cache_format,
        native_float8,
        padded_head,
        block_m,
        block_n,
    )


def tune_prefill(sm: int, variant: Variant) -> Tuning:
    """The largest tiles that SHARED_BYTES hold, on every generation without spills."""
    padded_head = triton.next_power_of_2(int(variant.constants["head_size"]))
    if padded_head > 128:
        block_m, block_n, num_stages = 32, 32, 1
    elif padded_head == 128:
        block_m, block_n, num_stages = (64, 64, 1) if sm == 100 else (64, 32, 2)
    else:
        block_m, block_n, num_stages = 64, 64, 2
    group = int(variant.constants["num_heads"]) // int(variant.constants["num_kv_heads"])
    constants = {
        "native_float8": sm >= 89,
        "padded_head": padded_head,
        # A tile has at least one token, with all of the heads that share its keys.
        "block_m": max(block_m, triton.next_power_of_2(group)),
        "block_n": block_n,
    }
    return Tuning(num_warps=4, num_stages=num_stages, constants=constants)


_CACHE = (Argument("key_cache", "*{kv}"), Argument("value_cache", "*{kv}"))
_ROWS = (Argument("positions", "*i32"), Argument("sequence_of_row", "*i32"), Argument("block_tables", "*i32"))
_PARTS = tuple(Argument(name, "*fp32") for name in ("partials", "maxima", "totals"))
_STRIDE, _SPLITS = Argument("block_table_stride", "i32"), Argument("splits", "i32")
_QUERY, _RESULT = Argument("q", "*{act}"), Argument("y", "*{act}")

DECODE = KernelSpec(
    module=__name__,
    function="plugin_decode",
    arguments=(_QUERY, *_CACHE, *_ROWS, _STRIDE, _SPLITS, *_PARTS),
    grid=((Extent("rows"),), (Extent("num_kv_heads"),), (Extent("splits"),)),
    tune=tune_decode,
    variants=(),
    decode_path=True,
)
COMBINE = KernelSpec(
    module=__name__,
    function="plugin_combine",
    arguments=(_QUERY, *_PARTS, Argument("positions", "*i32"), _SPLITS, _RESULT),
    grid=((Extent("rows"),), (Extent("num_heads"),)),
    tune=tune_combine,
    variants=(),
    decode_path=True,
)
PREFILL = KernelSpec(
    module=__name__,
    function="plugin_prefill",
    arguments=(
        _QUERY,
        *_CACHE,
        *_ROWS,
        Argument("tile_begins", "*i32"),
        Argument("tile_ends", "*i32"),
        _STRIDE,
        _RESULT,
    ),
    grid=((Extent("tiles"),), (Extent("num_kv_heads"),)),
    tune=tune_prefill,
    variants=(),
)

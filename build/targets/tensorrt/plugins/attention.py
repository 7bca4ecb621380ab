"""Paged attention as plugins of full TensorRT, compiled ahead of time: `tensorrt.plugin.op.inflight`.

Importing this module registers them. A plan carries the kernels' code, so loading it needs nothing of this file.
There is no `from __future__ import annotations`, because tensorrt.plugin reads the annotations as objects: tensors
first, then attributes, and the same names in `aot_impl` before `outputs` and `tactic`.

The API is that of TensorRT 11's `tensorrt.plugin` (register, aot_impl), which NVIDIA calls experimental.
"""

import tensorrt as trt
import tensorrt.plugin as trtp

from inflight.build.targets.tensorrt.lowering.cache_layout import SPLIT_TOKENS
from inflight.build.targets.tensorrt.plugins.code import (
    AttentionShape,
    combine_code,
    decode_code,
    plugin_ptx,
    prefill_code,
)
from inflight.dtypes import DTYPES
from inflight.engine_format.gpu_artifact import Artifact

# Kernel name, code, launch and scalars.
Implementation = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
_ACT = {
    getattr(trt.DataType, str(dtype.tensorrt)): str(dtype.triton) for dtype in (DTYPES["float16"], DTYPES["bfloat16"])
}


def paged_decode(
    q: trtp.TensorDesc,
    key_cache: trtp.TensorDesc,
    value_cache: trtp.TensorDesc,
    positions: trtp.TensorDesc,
    sequence_of_row: trtp.TensorDesc,
    block_tables: trtp.TensorDesc,
    scale: float,
    window: int,
    sm: int,
) -> tuple[trtp.TensorDesc, trtp.TensorDesc, trtp.TensorDesc]:
    """q [D, heads, size], caches [B, kv_heads, tokens_per_block, size], int32 [D], [D], [S, W].

    Gives float32 partials [D, heads, splits, size], maxima and totals [D, heads, splits].
    """
    rows, heads, size = q.shape_expr
    parts = (rows, heads, _splits(key_cache, block_tables))
    return (
        trtp.from_shape_expr((*parts, size), trt.DataType.FLOAT),
        trtp.from_shape_expr(parts, trt.DataType.FLOAT),
        trtp.from_shape_expr(parts, trt.DataType.FLOAT),
    )


def paged_decode_code(
    q: trtp.TensorDesc,
    key_cache: trtp.TensorDesc,
    value_cache: trtp.TensorDesc,
    positions: trtp.TensorDesc,
    sequence_of_row: trtp.TensorDesc,
    block_tables: trtp.TensorDesc,
    scale: float,
    window: int,
    sm: int,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Implementation:
    code = decode_code(_shape(q, key_cache, scale, window), sm)
    splits = _splits(key_cache, block_tables)
    return _implementation(
        code, (q.shape_expr[0], key_cache.shape_expr[1], splits), (block_tables.shape_expr[1], splits)
    )


def combine_splits(
    q: trtp.TensorDesc,
    partials: trtp.TensorDesc,
    maxima: trtp.TensorDesc,
    totals: trtp.TensorDesc,
    positions: trtp.TensorDesc,
    window: int,
    sm: int,
) -> trtp.TensorDesc:
    """The parts of paged_decode as rows of q's shape [D, heads, size] and type."""
    return q.like()


def combine_splits_code(
    q: trtp.TensorDesc,
    partials: trtp.TensorDesc,
    maxima: trtp.TensorDesc,
    totals: trtp.TensorDesc,
    positions: trtp.TensorDesc,
    window: int,
    sm: int,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Implementation:
    rows, heads, size = q.shape_expr
    code = combine_code(heads.constant_value(), size.constant_value(), window, _ACT[q.dtype], sm)
    return _implementation(code, (rows, heads), (partials.shape_expr[2],))


def paged_prefill(
    q: trtp.TensorDesc,
    key_cache: trtp.TensorDesc,
    value_cache: trtp.TensorDesc,
    positions: trtp.TensorDesc,
    sequence_of_row: trtp.TensorDesc,
    block_tables: trtp.TensorDesc,
    tile_begins: trtp.TensorDesc,
    tile_ends: trtp.TensorDesc,
    scale: float,
    window: int,
    sm: int,
) -> trtp.TensorDesc:
    """q [T, heads, size], caches as paged_decode's, int32 [T], [T], [S, W], [Q], [Q].

    Gives rows of q's shape and type, of which those in a tile are written.
    """
    return q.like()


def paged_prefill_code(
    q: trtp.TensorDesc,
    key_cache: trtp.TensorDesc,
    value_cache: trtp.TensorDesc,
    positions: trtp.TensorDesc,
    sequence_of_row: trtp.TensorDesc,
    block_tables: trtp.TensorDesc,
    tile_begins: trtp.TensorDesc,
    tile_ends: trtp.TensorDesc,
    scale: float,
    window: int,
    sm: int,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Implementation:
    code = prefill_code(_shape(q, key_cache, scale, window), sm)
    return _implementation(code, (tile_begins.shape_expr[0], key_cache.shape_expr[1]), (block_tables.shape_expr[1],))


def _splits(key_cache: trtp.TensorDesc, block_tables: trtp.TensorDesc) -> trtp.ShapeExpr:
    """As many as the tokens that the block tables can list."""
    return trtp.cdiv(block_tables.shape_expr[1] * key_cache.shape_expr[2], SPLIT_TOKENS)


def _shape(q: trtp.TensorDesc, key_cache: trtp.TensorDesc, scale: float, window: int) -> AttentionShape:
    _, kv_heads, tokens_per_block, size = key_cache.shape_expr
    return AttentionShape(
        num_heads=q.shape_expr[1].constant_value(),
        num_kv_heads=kv_heads.constant_value(),
        head_size=size.constant_value(),
        tokens_per_block=tokens_per_block.constant_value(),
        scale=scale,
        window=window,
        act=_ACT[q.dtype],
    )


def _implementation(
    code: Artifact, grid: tuple[trtp.ShapeExpr, ...], scalars: tuple[trtp.ShapeExpr, ...]
) -> Implementation:
    launch = trtp.KernelLaunchParams()
    launch.grid_x, launch.grid_y, launch.grid_z = (*grid, 1, 1)[:3]
    launch.block_x = code.threads
    launch.shared_mem = code.shared_bytes
    return code.entry, plugin_ptx(code), launch, trtp.SymIntExprs.from_tuple([trtp.SymInt32(size) for size in scalars])


for _name, _description, _code in (
    ("paged_decode", paged_decode, paged_decode_code),
    ("combine_splits", combine_splits, combine_splits_code),
    ("paged_prefill", paged_prefill, paged_prefill_code),
):
    trtp.register(f"inflight::{_name}")(_description)
    trtp.aot_impl(f"inflight::{_name}")(_code)

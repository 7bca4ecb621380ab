"""The lowering of attention over a pool of blocks: plugins of full TensorRT, whose kernels are the cuda target's.

Single tokens go to decode attention, which is split over the context; tiles of prompts to prompt attention. Both see
the cache after the step's keys and values were written.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.passes.rewrite import integer, number
from inflight.build.targets.tensorrt.api import PluginOps, Tensor
from inflight.build.targets.tensorrt.lowering.cache_layout import (
    ATTENTION_ROWS,
    BLOCK_TABLES,
    DECODE_POSITIONS,
    DECODE_ROWS,
    DECODE_SEQUENCES,
    SEQUENCE_OF_ROW,
    TILE_BEGINS,
    TILE_ENDS,
)
from inflight.build.targets.tensorrt.lowering.lowered import Operands, as_tensor
from inflight.build.targets.tensorrt.lowering.writer import NetworkWriter


def paged_attention(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """Queries [T, heads, D] over the blocks; gives float32 [T, heads, D].

    Each plugin writes what its own rows see, so the results of decodes and of all rows stand one after the other, and
    every row takes its own. What prompt attention leaves unwritten is nobody's.
    """
    query, keys, values, positions = (as_tensor(writer, operand) for operand in operands[:4])
    name, plugins, paging = str(node.name), writer.plugins, writer.paging
    assert plugins is not None, "attention over pages was asked for without its plugins"
    rule = {"scale": number(node, "scale", 1.0), "window": integer(node, "window", 0), "sm": plugins.sm}
    query = writer.cast(query, writer.compute_type)
    decoded = _decoded(writer, plugins.ops, query, keys, values, rule, name)
    inputs = (query, keys, values, positions, *(paging[name] for name in _PREFILL_INPUTS))
    (prefilled,) = writer.plugin(plugins.ops.paged_prefill(*inputs, **rule), ["rows"], f"{name}.prompts")
    both = writer.concatenated([decoded, prefilled], f"{name}.both")
    return writer.float32(writer.gather(both, paging[ATTENTION_ROWS], f"{name}.packed"))


_PREFILL_INPUTS = (SEQUENCE_OF_ROW, BLOCK_TABLES, TILE_BEGINS, TILE_ENDS)


def _decoded(
    writer: NetworkWriter,
    ops: PluginOps,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    rule: dict[str, float],
    name: str,
) -> Tensor:
    """[D, heads, head_size] of the rows of single tokens."""
    paging = writer.paging
    positions, sequences = paging[DECODE_POSITIONS], paging[DECODE_SEQUENCES]
    rows = writer.gather(query, paging[DECODE_ROWS], f"{name}.decode_rows")
    split = ops.paged_decode(rows, keys, values, positions, sequences, paging[BLOCK_TABLES], **rule)
    parts = writer.plugin(split, ["partials", "maxima", "totals"], f"{name}.splits")
    combined = ops.combine_splits(rows, *parts, positions, window=rule["window"], sm=rule["sm"])
    (decoded,) = writer.plugin(combined, ["rows"], f"{name}.decoded")
    return decoded

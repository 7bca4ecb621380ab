"""The functions of latent attention become LatentCacheWrite and PagedLatentAttention, between products of each head's
own: queries meet the matrices of keys before, and results those of values behind.

As with RopeCacheWrite, rows are written at their positions, and the paging inputs stay empty until tokens are packed.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import KEY_FACTOR
from inflight.build.graph.values import dtype_of, name_of, new_value, shape_of
from inflight.build.network.latent import ATTENTION, DOMAIN, ROWS
from inflight.build.passes.paged_attention import mask_window
from inflight.build.passes.rewrite import fused, like, number, produced_by, replace, stored


def fuse_latent_attention(graph: ir.Graph) -> None:
    for call in [node for node in graph if node.domain == DOMAIN and node.op_type.startswith(ATTENTION)]:
        _fuse(graph, call)


def _fuse(graph: ir.Graph, call: ir.Node) -> None:
    query, present, cos, sin, positions, mask, *stacks = call.inputs
    write = produced_by(present, "TensorScatter")
    rows = None if write is None or write.inputs[1] is None else write.inputs[1].producer()
    if query is None or present is None or write is None or rows is None or not rows.op_type.startswith(ROWS):
        return
    weights = [weight for stack in stacks if (weight := stored(stack)) is not None]
    norm, past, kv = stored(rows.inputs[1]), write.inputs[0], rows.inputs[0]
    if len(weights) != len(stacks) or norm is None or past is None or kv is None or mask_window(mask, positions) != 0:
        return
    key_matrices, value_matrices = weights
    heads, rank, _ = (int(size) for size in shape_of(key_matrices))
    width, name, leading = int(shape_of(past)[-1]), name_of(call.outputs[0]), shape_of(query)[:2]
    sizes = {"num_heads": heads, "rank": rank, "rotary_size": width - rank, KEY_FACTOR: 1.0}

    def value(part: str, size: int) -> ir.Value:
        return new_value(f"{name}.{part}", dtype_of(query), (*leading, size))

    met = fused(
        "HeadLinear", [query, key_matrices], [value("met", heads * rank)], {"row_size": _row_size(query, heads)}
    )
    writes = fused(
        "LatentCacheWrite",
        [query, met.outputs[0], kv, norm, cos, sin, positions, None, None, past],
        [value("queries", heads * width), like(present)],
        {**sizes, "epsilon": number(rows, "epsilon", 1e-5)},
    )
    attention = fused(
        "PagedLatentAttention",
        [*writes.outputs, positions, None, None],
        [value("latents", heads * rank)],
        {**sizes, "scale": number(call, "scale", 1.0)},
    )
    result = fused("HeadLinear", [attention.outputs[0], value_matrices], [like(call.outputs[0])], {"row_size": rank})
    for node in (met, writes, attention, result):
        graph.insert_before(call, node)
    replace(graph, [present, *call.outputs], [writes.outputs[1], *result.outputs])


def _row_size(rows: ir.Value, heads: int) -> int:
    return int(shape_of(rows)[-1]) // heads

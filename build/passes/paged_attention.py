"""Attention over the caches of a RopeCacheWrite, under a causal or sliding mask or none, becomes PagedAttention.

The mask disappears into facts: a row's position, the window, and whether it sees what is behind it.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import CACHE_FACTORS, DOMAIN
from inflight.build.graph.values import array_of, shape_of
from inflight.build.network.sinks import DOMAIN as SINKS_DOMAIN
from inflight.build.passes.rewrite import (
    fused,
    integer,
    is_permutation,
    like,
    nodes_of,
    number,
    only_consumer,
    produced_by,
    replace,
    stored,
)


def fuse_paged_attention(graph: ir.Graph) -> None:
    with_sinks = [node for node in graph if node.domain == SINKS_DOMAIN]
    for attention in (*nodes_of(graph, "Attention"), *with_sinks):
        write, merged = _cache_write(attention), _merged_heads(attention)
        if write is None or merged is None:
            continue
        positions = write.inputs[5]
        causal = not sees_everything(attention.inputs[3], positions)
        window = mask_window(attention.inputs[3], positions) if causal else 0
        if window is None or positions is None:
            continue
        q, key_cache, value_cache = write.outputs
        head_size = integer(write, "head_size", 0)
        attributes = {
            "num_heads": integer(write, "num_heads", 0),
            "num_kv_heads": integer(write, "num_kv_heads", 0),
            "head_size": head_size,
            **dict.fromkeys(CACHE_FACTORS, 1.0),
            "scale": number(attention, "scale", head_size**-0.5),
            "window": window,
            "causal": int(causal),
            "softcap": number(attention, "softcap", 0.0),
        }
        sinks = [stored(value) for value in attention.inputs[4:]]
        inputs = [q, key_cache, value_cache, positions, None, None, *sinks]
        node = fused("PagedAttention", inputs, [like(merged)], attributes)
        graph.insert_before(attention, node)
        replace(graph, [merged], node.outputs)


def _cache_write(attention: ir.Node) -> ir.Node | None:
    """The RopeCacheWrite whose q, key cache and value cache `attention` reads, as they are."""
    inputs = attention.inputs
    if (
        len(inputs) != (5 if attention.domain == SINKS_DOMAIN else 4)
        or len(attention.outputs) != 1
        or integer(attention, "is_causal", 0)
    ):
        return None
    transpose = produced_by(inputs[0], "Transpose")
    reshape = None if transpose is None else produced_by(transpose.inputs[0], "Reshape")
    write = None if reshape is None else produced_by(reshape.inputs[0], "RopeCacheWrite", DOMAIN)
    if write is None or transpose is None or not is_permutation(transpose, (0, 2, 1, 3)):
        return None
    return write if (inputs[1], inputs[2]) == (write.outputs[1], write.outputs[2]) else None


def _merged_heads(attention: ir.Node) -> ir.Value | None:
    """The result as rows: [batch, step, heads * head_size]."""
    transpose = only_consumer(attention.outputs[0], "Transpose")
    if transpose is None or not is_permutation(transpose, (0, 2, 1, 3)):
        return None
    reshape = only_consumer(transpose.outputs[0], "Reshape")
    return reshape.outputs[0] if reshape is not None and len(shape_of(reshape.outputs[0])) == 3 else None


def mask_window(mask: ir.Value | None, positions: ir.Value | None) -> int | None:
    """0 for a causal mask of the rows at `positions`, the window of a sliding one, None for any other mask."""
    if _bound(mask, "LessOrEqual", positions) is not None:
        return 0
    both = produced_by(mask, "And")
    if both is None or _bound(both.inputs[0], "LessOrEqual", positions) is None:
        return None
    start = produced_by(both.inputs[1], "Greater")
    difference = None if start is None else produced_by(start.inputs[1], "Sub")
    if start is None or difference is None or not _is_keys(start.inputs[0]):
        return None
    window = array_of(difference.inputs[1])
    return int(window) if window is not None and _is_rows(difference.inputs[0], positions) else None


def sees_everything(mask: ir.Value | None, positions: ir.Value | None) -> bool:
    """Whether the rows see all keys up to the greatest of `positions`, that of the last row of a step."""
    bound = produced_by(mask, "LessOrEqual")
    rows = None if bound is None or not _is_keys(bound.inputs[0]) else produced_by(bound.inputs[1], "Unsqueeze")
    expand = None if rows is None else produced_by(rows.inputs[0], "Expand")
    last = None if expand is None else produced_by(expand.inputs[0], "ReduceMax")
    axes = None if last is None or len(last.inputs) != 2 else array_of(last.inputs[1])
    return last is not None and axes is not None and axes.tolist() == [1] and last.inputs[0] is positions


def _bound(mask: ir.Value | None, comparison: str, positions: ir.Value | None) -> ir.Node | None:
    node = produced_by(mask, comparison)
    return node if node is not None and _is_keys(node.inputs[0]) and _is_rows(node.inputs[1], positions) else None


def _is_keys(value: ir.Value | None) -> bool:
    """0, 1, 2, ..."""
    node = produced_by(value, "Range")
    if node is None:
        return False
    start, _, step = (array_of(limit) for limit in node.inputs)
    return start is not None and step is not None and int(start) == 0 and int(step) == 1


def _is_rows(value: ir.Value | None, positions: ir.Value | None) -> bool:
    """positions [batch, step] as [batch, 1, step, 1]"""
    node = produced_by(value, "Unsqueeze")
    axes = None if node is None else array_of(node.inputs[1])
    return node is not None and axes is not None and axes.tolist() == [1, 3] and node.inputs[0] is positions

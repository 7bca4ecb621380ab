"""Attention over the caches of a RopeCacheWrite, under a causal or sliding mask or none, becomes PagedAttention.

The mask disappears into facts: a row's position, the window, and whether it sees what is behind it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.operators import CACHE_FACTORS, DOMAIN
from inflight.build.graph.values import array_of, name_of, new_value, shape_of
from inflight.build.network.position_bias import DOMAIN as BIAS_DOMAIN
from inflight.build.network.position_bias import NO_ORIGIN
from inflight.build.network.sinks import DOMAIN as SINKS_DOMAIN
from inflight.build.passes.distances import find_distances
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
from inflight.convert.checkpoint.position_spec import Sight

# A kernel reads a table in vectors, up to so many columns behind that of the last key that a row sees.
READ_BEHIND = 64


def fuse_paged_attention(graph: ir.Graph) -> None:
    with_sinks = [node for node in graph if node.domain == SINKS_DOMAIN]
    for attention in (*nodes_of(graph, "Attention"), *with_sinks):
        write, merged = _cache_write(attention), _merged_heads(attention)
        if write is None or merged is None:
            continue
        positions = write.inputs[5]
        mask, table, origin = _bias(attention.inputs[3])
        products = find_distances(mask, attention, write)
        if products is not None:
            mask, origin = products.mask, products.origin
        sight = mask_sight(mask, positions)
        if sight is None or positions is None:
            continue
        q, key_cache, value_cache = write.outputs
        head_size = integer(write, "head_size", 0)
        attributes = {
            "num_heads": integer(write, "num_heads", 0),
            "num_kv_heads": integer(write, "num_kv_heads", 0),
            "head_size": head_size,
            **dict.fromkeys(CACHE_FACTORS, 1.0),
            "scale": number(attention, "scale", head_size**-0.5),
            "window": sight.window or 0,
            "chunk": sight.chunk or 0,
            "causal": int(sight.causal),
            "softcap": number(attention, "softcap", 0.0),
            "bias_origin": origin,
            "distance_width": 0 if products is None else products.width,
        }
        sinks = [stored(value) for value in attention.inputs[4:]]
        inputs = [q, key_cache, value_cache, positions, None, None, *sinks]
        inputs += [] if table is None else [*([] if sinks else [None]), table]
        inputs += [] if products is None else [None, None, products.write(graph, attention), products.columns]
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


def mask_sight(mask: ir.Value | None, positions: ir.Value | None) -> Sight | None:
    """What the rows at `positions` see under a mask; None for a mask of another kind."""
    both = produced_by(mask, "And")
    whole, near = (mask, None) if both is None else both.inputs
    causal = _bound(whole, "LessOrEqual", positions) is not None
    if not causal and not _sees_everything(whole, positions):
        return None
    if both is None:
        return Sight(causal)
    if causal and (chunk := _chunk(near, positions)) is not None:
        return Sight(chunk=chunk)
    sides = produced_by(near, "And")
    if (sides is None) != causal:
        return None
    window = _edge(near if sides is None else sides.inputs[0], ("Greater", "Sub"), positions)
    if window is None or (sides is not None and _edge(sides.inputs[1], ("Less", "Add"), positions) != window):
        return None
    return Sight(causal, window)


def mask_window(mask: ir.Value | None, positions: ir.Value | None) -> int | None:
    """0 for a causal mask of the rows at `positions`, the window of a sliding one, None for any other mask."""
    sight = mask_sight(mask, positions)
    return None if sight is None or not sight.causal or sight.chunk else sight.window or 0


def _edge(mask: ir.Value | None, kinds: tuple[str, str], positions: ir.Value | None) -> int | None:
    """The distance of keys that are compared with the rows less it, or more."""
    comparison = produced_by(mask, kinds[0])
    moved = None if comparison is None else produced_by(comparison.inputs[1], kinds[1])
    if comparison is None or moved is None or not _is_keys(comparison.inputs[0]):
        return None
    distance = array_of(moved.inputs[1])
    return int(distance) if distance is not None and _is_rows(moved.inputs[0], positions) else None


def _chunk(mask: ir.Value | None, positions: ir.Value | None) -> int | None:
    """The size of chunks whose first position is the least that a row sees."""
    comparison = produced_by(mask, "GreaterOrEqual")
    start = None if comparison is None else produced_by(comparison.inputs[1], "Sub")
    inside = None if start is None else produced_by(start.inputs[1], "Mod")
    if comparison is None or start is None or inside is None or not _is_keys(comparison.inputs[0]):
        return None
    chunk = array_of(inside.inputs[1])
    same = start.inputs[0] is inside.inputs[0] and _is_rows(inside.inputs[0], positions)
    return int(chunk) if chunk is not None and same else None


def _bias(mask: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None, int]:
    """The mask of a biased one, the table of what positions add, with numbers behind it that a kernel may read, and the
    table's origin; without one no table, and -1.
    """
    call = None if mask is None else mask.producer()
    if call is None or call.domain != BIAS_DOMAIN:
        return mask, None, NO_ORIGIN
    table = call.inputs[2]
    values = array_of(table)
    assert table is not None and values is not None, "the network has a constant there"
    padded = np.pad(values, ((0, 0), (0, READ_BEHIND)))
    name = f"{name_of(table)}.padded"
    graph = call.graph
    assert isinstance(graph, ir.Graph)
    if name not in graph.initializers:
        wide = new_value(name, ir.DataType.FLOAT, padded.shape)
        wide.const_value = ir.tensor(padded, name=name)
        graph.register_initializer(wide)
    return call.inputs[0], graph.initializers[name], integer(call, "origin", NO_ORIGIN)


def _sees_everything(mask: ir.Value | None, positions: ir.Value | None) -> bool:
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

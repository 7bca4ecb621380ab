"""Split of q, k, v, norms of heads, rotary embedding (if there is one), factors of queries by their positions (if there
are some) and TensorScatter become RopeCacheWrite.

The network writes at write_index + row, which by its contract is the row's position; RopeCacheWrite writes at the
position. Its paging inputs stay empty until the tokens are packed: a linear cache is a paged one in which every
sequence has one block of max_seq_len tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.graph.operators import CACHE_FACTORS
from inflight.build.graph.values import array_of, dtype_of, name_of, new_value, shape_of
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


@dataclass(frozen=True, slots=True)
class _Heads:
    """One of q, k, v on its way to [batch, heads, step, head_size]."""

    result: ir.Value
    num_heads: int
    head_size: int
    reshape: ir.Node
    norm: ir.Value | None = None
    epsilon: float = 0.0
    rotary: ir.Node | None = None
    norm_last: bool = False
    factors: ir.Value | None = None

    @property
    def rotary_size(self) -> int:
        """How many values of a head are rotated, from its first on."""
        if self.rotary is None:
            return 0
        return integer(self.rotary, "rotary_embedding_dim", 0) or self.head_size


def fuse_rope_cache_write(graph: ir.Graph) -> None:
    for split in nodes_of(graph, "Split"):
        if len(split.outputs) == 3:
            _fuse(graph, split)


def _fuse(graph: ir.Graph, split: ir.Node) -> None:
    q, k, v = (_heads(value) for value in split.outputs)
    if q is None or k is None or v is None or not _same_rotation(q, k) or v.rotary is not None or v.norm is not None:
        return
    if k.factors is not None or v.factors is not None:
        return
    key_write, value_write = only_consumer(k.result, "TensorScatter"), only_consumer(v.result, "TensorScatter")
    positions = _positions(graph, q)
    if key_write is None or value_write is None or positions is None:
        return
    cos, sin = (None, None) if q.rotary is None else q.rotary.inputs[1:3]
    caches = [key_write.inputs[0], value_write.inputs[0]]
    inputs = [split.inputs[0], q.norm, k.norm, cos, sin, positions, None, None, *caches]
    inputs += [] if q.factors is None else [q.factors]
    batch, _, step, _ = shape_of(q.result)
    rows = new_value(f"{name_of(split.outputs[0])}.rope", dtype_of(q.result), (batch, step, q.num_heads * q.head_size))
    presents = [key_write.outputs[0], value_write.outputs[0]]
    attributes = {
        "num_heads": q.num_heads,
        "num_kv_heads": k.num_heads,
        "head_size": q.head_size,
        **dict.fromkeys(CACHE_FACTORS, 1.0),
        "rotary_size": q.rotary_size,
        "epsilon": q.epsilon,
        "norm_last": int(q.norm_last),
    }
    node = fused("RopeCacheWrite", inputs, [rows, *(like(value) for value in presents)], attributes)
    graph.insert_before(split, node)
    heads = _as_heads(graph, node, rows, q)
    replace(graph, [q.result, *presents], [heads, *node.outputs[1:]])


def _heads(value: ir.Value) -> _Heads | None:
    reshape = only_consumer(value, "Reshape")
    if reshape is None:
        return None
    x, norm = reshape.outputs[0], only_consumer(reshape.outputs[0], "RMSNormalization")
    if norm is not None:
        x = norm.outputs[0]
    transpose = only_consumer(x, "Transpose")
    if transpose is None or not is_permutation(transpose, (0, 2, 1, 3)):
        return None
    x = transpose.outputs[0]
    _, num_heads, _, head_size = shape_of(x)
    rotary = only_consumer(x, "RotaryEmbedding")
    result = x if rotary is None else rotary.outputs[0]
    last = only_consumer(result, "RMSNormalization") if norm is None else None
    norm = norm or last
    result = result if last is None else last.outputs[0]
    scaled = only_consumer(result, "Mul")
    factors = None if scaled is None else _row_factors(scaled.inputs[1])
    weight = None if norm is None else stored(norm.inputs[1])
    if norm is not None and weight is None:
        return None
    return _Heads(
        result=result if scaled is None or factors is None else scaled.outputs[0],
        num_heads=int(num_heads),
        head_size=int(head_size),
        reshape=reshape,
        norm=weight,
        epsilon=0.0 if norm is None else number(norm, "epsilon", 1e-5),
        rotary=rotary,
        norm_last=last is not None,
        factors=factors,
    )


def _row_factors(value: ir.Value | None) -> ir.Value | None:
    """The table [P] of which a row has the number of its position, [batch, 1, step, 1]; None for anything else."""
    rows = produced_by(value, "Unsqueeze")
    axes = None if rows is None else array_of(rows.inputs[1])
    gather = None if rows is None or axes is None or axes.tolist() != [1, 3] else produced_by(rows.inputs[0], "Gather")
    if gather is None or gather.inputs[1] is None or gather.inputs[1].name != "positions":
        return None
    return stored(gather.inputs[0])


def _same_rotation(q: _Heads, k: _Heads) -> bool:
    """Both rotated alike, in halves, or neither of them; and both normalized or neither."""
    if (q.norm is None) != (k.norm is None) or q.epsilon != k.epsilon or q.norm_last != k.norm_last:
        return False
    if q.rotary_size != k.rotary_size:
        return False
    if q.rotary is None or k.rotary is None:
        return q.rotary is k.rotary
    plain = integer(q.rotary, "interleaved", 0) == integer(k.rotary, "interleaved", 0) == 0
    return plain and q.rotary.inputs[1:] == k.rotary.inputs[1:]


def _positions(graph: ir.Graph, q: _Heads) -> ir.Value | None:
    """The positions of the rows: the rotation's, or the graph's own where nothing is rotated."""
    if q.rotary is not None:
        return q.rotary.inputs[3]
    return next((value for value in graph.inputs if value.name == "positions"), None)


def _as_heads(graph: ir.Graph, after: ir.Node, rows: ir.Value, q: _Heads) -> ir.Value:
    """`rows` in the shape in which Attention reads them."""
    shape = shape_of(q.reshape.outputs[0])
    split = ir.node(
        "Reshape",
        [rows, q.reshape.inputs[1]],
        outputs=[new_value(f"{name_of(rows)}.heads", dtype_of(rows), shape)],
        name=f"{name_of(rows)}.heads",
    )
    turned = ir.node("Transpose", [split.outputs[0]], {"perm": [0, 2, 1, 3]}, outputs=[like(q.result)])
    turned.name = name_of(q.result)
    graph.insert_after(after, [split, turned])
    return turned.outputs[0]

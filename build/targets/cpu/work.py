"""Minimum operations and bytes of each operator of a step, from its shapes. A profile divides them by the times."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from inflight.build.graph.operators import OPERATORS
from inflight.build.graph.values import Dim, dtype_of, name_of, shape_of
from inflight.build.passes.pack_tokens import LOGIT_ROWS, TOKENS
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout

_MATRICES = ("weight", "gate", "up")
# Operators that read a few rows of their tables, not all.
_LOOKUPS = ("EmbeddingLookup", "RopeCacheWrite", "LatentCacheWrite")
_STACKS = ("fc", "proj")
_MIXTURES = ("Experts", "QuantizedExperts")


@dataclass(frozen=True)
class OperatorWork:
    """`inflight_operator` of kernels/abi.h: fields in its order."""

    kind: str
    name: str
    logit_rows: bool
    flops_per_row: int
    bytes_per_row: int
    weight_bytes: int
    flops_per_pair: int = 0
    bytes_per_context_token: int = 0
    window: int = 0


def operator_work(node: ir.Node, weights: WeightLayout) -> OperatorWork:
    """The work of one fused operator."""
    common = (node.op_type, name_of(node.outputs[0]), shape_of(node.outputs[0])[0] == LOGIT_ROWS)
    if node.op_type == "PagedAttention":
        return _attention_work(node, common)
    if node.op_type == "PagedLatentAttention":
        return _latent_work(node, common)
    if node.op_type in _MIXTURES:
        return _experts_work(node, common, weights)
    return OperatorWork(*common, 2 * _matrix_elements(node), _bytes_per_row(node), _weight_bytes(node, weights))


def _experts_work(node: ir.Node, common: tuple[str, str, bool], weights: WeightLayout) -> OperatorWork:
    """Of the experts that one row meets: how many others a step reads depends on what its rows choose."""
    inputs = zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False)
    given = {name: shape_of(value) for name, value in inputs if value is not None}
    count, top_k = int(given["logits"][-1]), node.attributes["top_k"].as_int()
    elements = sum(prod(int(dim) for dim in given[stack]) for stack in _STACKS) // count
    read = _weight_bytes(node, weights) // count * top_k
    return OperatorWork(*common, 2 * top_k * elements, _bytes_per_row(node), read)


def sampling_work(logits: ir.Value) -> OperatorWork:
    """The operator behind the graph's last: one pass over the logits."""
    return OperatorWork("Sampling", "sampling", True, 0, 4 * _width(shape_of(logits)), 0)


def _attention_work(node: ir.Node, common: tuple[str, str, bool]) -> OperatorWork:
    """Scores and weighted values: each a product of D per head for every pair of a row and a token that it sees."""
    heads, kv_heads, head_size = (node.attributes[name].as_int() for name in ("num_heads", "num_kv_heads", "head_size"))
    keys = node.inputs[1]
    assert keys is not None, f"{node.name} has no cache"
    return OperatorWork(
        *common,
        flops_per_row=0,
        bytes_per_row=_bytes_per_row(node),
        weight_bytes=0,
        flops_per_pair=4 * heads * head_size,
        bytes_per_context_token=int(2 * kv_heads * int(shape_of(keys)[-1]) * dtype_of(keys).itemsize),
        # Rows see no more than the last of their chunk do.
        window=node.attributes["window"].as_int() or node.attributes["chunk"].as_int(),
    )


def _latent_work(node: ir.Node, common: tuple[str, str, bool]) -> OperatorWork:
    """Every head reads the one row of a token: all of it for its score, the latent for the weighted sum."""
    heads, rank, rotary = (node.attributes[name].as_int() for name in ("num_heads", "rank", "rotary_size"))
    rows = node.inputs[1]
    assert rows is not None, f"{node.name} has no cache"
    return OperatorWork(
        *common,
        flops_per_row=0,
        bytes_per_row=_bytes_per_row(node),
        weight_bytes=0,
        flops_per_pair=2 * heads * (2 * rank + rotary),
        bytes_per_context_token=int(int(shape_of(rows)[-1]) * dtype_of(rows).itemsize),
    )


def _matrix_elements(node: ir.Node) -> int:
    if node.op_type in _LOOKUPS:
        return 0
    inputs = zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False)
    shapes = [shape_of(value) for name, value in inputs if name in _MATRICES and value is not None]
    return sum(prod(int(dim) for dim in shape) for shape in shapes if len(shape) == 2 or node.op_type == "HeadLinear")


def _bytes_per_row(node: ir.Node) -> int:
    """Rows read and written; what a lookup reads of its table is as much as it writes."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None and _has_rows(value)]
    total = sum(_width(shape_of(value)) * dtype_of(value).itemsize for value in values)
    return int(total + (_width(shape_of(node.outputs[0])) * 4 if node.op_type in _LOOKUPS else 0))


def _has_rows(value: ir.Value) -> bool:
    return value.shape is not None and shape_of(value)[:1] in ((TOKENS,), (LOGIT_ROWS,))


def _width(shape: tuple[Dim, ...]) -> int:
    return prod(int(dim) for dim in shape[1:])


def _weight_bytes(node: ir.Node, weights: WeightLayout) -> int:
    if node.op_type in _LOOKUPS:
        return 0
    names = {value.name for value in node.inputs if value is not None}
    return sum(
        tensor.nbytes
        for tensor in weights.tensors
        if tensor.layout != "rows" and all(source.name in names for source in tensor.sources)
    )

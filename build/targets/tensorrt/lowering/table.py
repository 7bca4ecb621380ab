"""The lowering table: each operator of the standard network, and attention over pages, is one small function here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import onnx_ir as ir

from inflight.build.graph.values import name_of
from inflight.build.targets.tensorrt.lowering import attention, paged_attention, rows
from inflight.build.targets.tensorrt.lowering.lowered import Lowered, Operands, as_tensor
from inflight.build.targets.tensorrt.lowering.writer import NetworkWriter
from inflight.errors import BuildError

Lowering: TypeAlias = Callable[[NetworkWriter, ir.Node, Operands], "Lowered | tuple[Lowered, ...]"]


def _elementwise(writer: NetworkWriter, node: ir.Node, operands: Operands, *, operation: str) -> Lowered:
    name = str(node.name)
    left, right = (as_tensor(writer, operand, f"{name}.operand{index}") for index, operand in enumerate(operands))
    return writer.elementwise(left, right, operation, name)


def _unary(writer: NetworkWriter, node: ir.Node, operands: Operands, *, operation: str) -> Lowered:
    return writer.unary(as_tensor(writer, operands[0]), operation, str(node.name))


LOWERINGS: Mapping[str, Lowering] = {
    "Abs": partial(_unary, operation="ABS"),
    "Add": partial(_elementwise, operation="SUM"),
    "And": partial(_elementwise, operation="AND"),
    "Attention": attention.attention,
    "Cast": rows.cast,
    "Clip": rows.clip,
    "Concat": rows.concat,
    "DequantizeLinear": rows.dequantize_linear,
    "Div": partial(_elementwise, operation="DIV"),
    "Gather": rows.gather,
    "Greater": partial(_elementwise, operation="GREATER"),
    "LessOrEqual": rows.less_or_equal,
    "MatMul": rows.mat_mul,
    "Max": partial(_elementwise, operation="MAX"),
    "Min": partial(_elementwise, operation="MIN"),
    "Mul": partial(_elementwise, operation="PROD"),
    "QuantizeLinear": rows.quantize_linear,
    "RMSNormalization": rows.rms_normalization,
    "Range": rows.range_,
    "Reciprocal": partial(_unary, operation="RECIP"),
    "ReduceMax": rows.reduce_max,
    "Reshape": rows.reshape,
    "RotaryEmbedding": attention.rotary_embedding,
    "Round": partial(_unary, operation="ROUND"),
    "Slice": rows.slice_,
    "Split": rows.split,
    "Sub": partial(_elementwise, operation="SUB"),
    "Swish": rows.swish,
    "TensorScatter": attention.tensor_scatter,
    "Transpose": rows.transpose,
    "Unsqueeze": rows.reshape,
    "inflight.PagedAttention": paged_attention.paged_attention,
}


# Attributes that a lowering does not follow, by operator; a node has them only where they change its result.
_NOT_LOWERED: Mapping[str, str] = {"Attention": "softcap", "RotaryEmbedding": "rotary_embedding_dim"}


def check_operators(graph: ir.Graph) -> None:
    """Raises BuildError naming every operator, and attribute of one, without a lowering, before anything is built."""
    missing: dict[str, str] = {}
    for node in graph:
        kind, attribute = _kind(node), _NOT_LOWERED.get(_kind(node))
        if kind not in LOWERINGS:
            missing.setdefault(kind, name_of(node.outputs[0]))
        elif attribute in node.attributes:
            missing.setdefault(f"{kind} with {attribute}", name_of(node.outputs[0]))
    if missing:
        listed = ", ".join(f"{kind} (as in {name})" for kind, name in sorted(missing.items()))
        raise BuildError(
            f"The tensorrt target has no lowering for {listed}.",
            "Build with --target cpu or --target reference, or add the lowering to "
            "build/targets/tensorrt/lowering/table.py.",
        )


def lower(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Sequence[Lowered]:
    """One node, whose results come in the order of its outputs."""
    results = LOWERINGS[_kind(node)](writer, node, operands)
    return results if isinstance(results, tuple) else (results,)


def _kind(node: ir.Node) -> str:
    """The operator, with its domain unless it is a standard one."""
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)

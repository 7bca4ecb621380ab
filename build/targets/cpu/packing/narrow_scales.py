"""Scales of groups in 16 bits where that loses nothing: in groups of 32 they are then an eighth of int4 weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, tensor_of
from inflight.build.network.stored_tensors import initializer

_SCALES = {"QuantizedLinear": (3,), "QuantizedGatedLinear": (3, 5)}


def narrow_scales(graph: ir.Graph) -> None:
    """Make float32 scales of groups float16 where every one of them is a float16 number; those of the two matrices of a
    gated product together.
    """
    for node in graph:
        positions = _SCALES.get(node.op_type, ())
        if not positions or node.attributes["group_size"].as_int() == 0:
            continue
        scales = [value for value in (node.inputs[position] for position in positions) if value is not None]
        if all(_fits(value) for value in scales):
            for position, value in zip(positions, scales, strict=True):
                node.replace_input_with(position, _narrowed(graph, value))


def _fits(scale: ir.Value) -> bool:
    if dtype_of(scale) != ir.DataType.FLOAT:
        return False
    values = tensor_of(scale).numpy()
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))


def _narrowed(graph: ir.Graph, scale: ir.Value) -> ir.Value:
    name, stored = name_of(scale), tensor_of(scale)

    def values() -> ir.TensorProtocol:
        return ir.Tensor(stored.numpy().astype(np.float16), name=name)

    tensor = ir.LazyTensor(values, ir.DataType.FLOAT16, ir.Shape(stored.shape), name=name)
    narrowed = initializer(name, tensor)
    graph.initializers.pop(name)
    graph.register_initializer(narrowed)
    return narrowed

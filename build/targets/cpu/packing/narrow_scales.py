"""Scales of groups in 16 bits where that loses nothing: in groups of 32 they are then an eighth of int4 weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, tensor_of
from inflight.build.network.stored_tensors import initializer
from inflight.build.targets.cpu.packing.quantized_panels import QuantizedShape
from inflight.build.targets.cpu.packing.weight_layout import quantized_panels

# Places of weights, scales and zero points among the inputs.
_Places = tuple[int, int, int]
_SCALES: dict[str, tuple[tuple[str, Sequence[_Places]], ...]] = {
    "QuantizedLinear": (("group_size", ((2, 3, 5),)),),
    "QuantizedGatedLinear": (("group_size", ((2, 3, 8), (4, 5, 9))),),
    # The two stacks of experts, each on its own.
    "QuantizedExperts": (("group_size", ((2, 3, 10),)), ("inner_group_size", ((4, 5, 11),))),
}


def narrow_scales(graph: ir.Graph) -> None:
    """Make float32 scales of groups float16 where every one of them is a float16 number, and panels can hold the zero
    points of those groups in 16 bits too; those of the two matrices of a gated product together.
    """
    for node in graph:
        for attribute, matrices in _SCALES.get(node.op_type, ()):
            size = node.attributes[attribute].as_int()
            if size == 0:
                continue
            inputs = [[node.inputs[place] if place < len(node.inputs) else None for place in each] for each in matrices]
            if all(_fits(size, *values) for values in inputs):
                for (_, position, _), (_, scale, _) in zip(matrices, inputs, strict=True):
                    assert scale is not None, "a quantized weight has scales"
                    node.replace_input_with(position, _narrowed(graph, scale))


def _fits(size: int, weight: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None) -> bool:
    if weight is None or scale is None or dtype_of(scale) != ir.DataType.FLOAT:
        return False
    values = tensor_of(scale).numpy()
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.array_equal(narrow.astype(np.float32), values):
        return False
    shape = quantized_panels(weight, scale, size, zeros=zero is not None)
    if zero is None or not isinstance(shape, QuantizedShape):
        return zero is None
    return shape.keeps_zeros(narrow, tensor_of(zero).numpy())


def _narrowed(graph: ir.Graph, scale: ir.Value) -> ir.Value:
    name, stored = name_of(scale), tensor_of(scale)

    def values() -> ir.TensorProtocol:
        return ir.Tensor(stored.numpy().astype(np.float16), name=name)

    tensor = ir.LazyTensor(values, ir.DataType.FLOAT16, ir.Shape(stored.shape), name=name)
    narrowed = initializer(name, tensor)
    graph.initializers.pop(name)
    graph.register_initializer(narrowed)
    return narrowed

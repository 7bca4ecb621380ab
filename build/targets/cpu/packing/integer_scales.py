"""Scales of int4 groups as whole multiples of one unit a row, where they are such: their groups are then added up in
integers (kernels/qtile.h).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, tensor_of
from inflight.build.network.stored_tensors import initializer
from inflight.convert.quantization.multiples import split_multiples

# Places among the inputs: of weights, scales, zero points and units of each matrix, and of the codebook.
_MATRICES = {
    "QuantizedLinear": (((2, 3, 5, 8),), 7),
    "QuantizedGatedLinear": (((2, 3, 8, 11), (4, 5, 9, 12)), 10),
}
_Split = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]


def integer_scales(graph: ir.Graph) -> None:
    """Replace float32 scales [N, groups] of int4 weights by int8 multiples [N, groups] and a unit [N] wherever they are
    such products, bit for bit; those of the two matrices of a gated product together.
    """
    for node in graph:
        if node.op_type not in _MATRICES or node.attributes["group_size"].as_int() == 0:
            continue
        matrices, codebook = _MATRICES[node.op_type]
        inputs = [_given(node, place) for place in (codebook, *(zero for _, _, zero, _ in matrices))]
        weights = [_given(node, weight) for weight, *_ in matrices]
        if any(inputs) or any(dtype_of(weight) != ir.DataType.INT4 for weight in weights if weight is not None):
            continue
        scales = [scale for _, place, *_ in matrices if (scale := _given(node, place)) is not None]
        if all(split_multiples(tensor_of(scale).numpy().astype(np.float32)) is not None for scale in scales):
            for (_, place, _, unit), scale in zip(matrices, scales, strict=True):
                _replace(graph, node, place, unit, scale)


def _given(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if place < len(node.inputs) else None


def _replace(graph: ir.Graph, node: ir.Node, place: int, unit_place: int, scale: ir.Value) -> None:
    """Both are made again of the stored scales when they are packed, so that a plan holds no model's scales."""
    name, stored = name_of(scale), tensor_of(scale)
    node.resize_inputs(max(len(node.inputs), unit_place + 1))
    graph.initializers.pop(name, None)
    parts = (
        (place, name, ir.DataType.INT8, stored.shape),
        (unit_place, f"{name}.unit", ir.DataType.FLOAT, stored.shape[:1]),
    )
    for part, (at, called, dtype, shape) in enumerate(parts):

        def values(part: int = part, called: str = called) -> ir.TensorProtocol:
            return ir.Tensor(_split(stored)[part], name=called)

        value = initializer(called, ir.LazyTensor(values, dtype, ir.Shape(shape), name=called))
        graph.register_initializer(value)
        node.replace_input_with(at, value)


def _split(scales: ir.TensorProtocol) -> _Split:
    found = split_multiples(scales.numpy().astype(np.float32))
    assert found is not None, f"{scales.name} has multiples"
    return found

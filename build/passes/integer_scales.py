"""Scales of int4 groups as whole multiples of one unit a row, where they are such: their groups are then added up in
integers (kernels/qtile.h of the cpu target, quantized_tiles.py of the cuda target).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, tensor_of
from inflight.build.network.stored_tensors import initializer
from inflight.convert.quantization.multiples import split_multiples

_Places = tuple[int, int, int, int]
# Places among the inputs: of weights, scales, zero points and units of each matrix, and of the codebook.
_MATRICES: dict[str, tuple[Sequence[_Places], int]] = {
    "QuantizedLinear": (((2, 3, 5, 8),), 7),
    "QuantizedGatedLinear": (((2, 3, 8, 11), (4, 5, 9, 12)), 10),
}
# The two stacks of experts, each on its own.
_STACKS = {"group_size": (2, 3, 10, 14, 12), "inner_group_size": (4, 5, 11, 15, 13)}
_Split = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]


def integer_scales(graph: ir.Graph) -> None:
    """Replace float32 scales [N, groups] of int4 weights by int8 multiples [N, groups] and a unit [N] wherever they are
    such products, bit for bit; those of the two matrices of a gated product together.
    """
    for node in graph:
        for size, matrices, codebook in _together(node):
            inputs = [_given(node, place) for place in (codebook, *(zero for _, _, zero, _ in matrices))]
            weights = [_given(node, weight) for weight, *_ in matrices]
            if size == 0 or any(inputs) or any(dtype_of(each) != ir.DataType.INT4 for each in weights if each):
                continue
            scales = [scale for _, place, *_ in matrices if (scale := _given(node, place)) is not None]
            if all(split_multiples(tensor_of(scale).numpy().astype(np.float32)) is not None for scale in scales):
                for (_, place, _, unit), scale in zip(matrices, scales, strict=True):
                    _replace(graph, node, place, unit, scale)


def _together(node: ir.Node) -> Iterator[tuple[int, Sequence[_Places], int]]:
    """The size of groups, the places of matrices that one kernel reads, and that of their codebook."""
    if node.op_type == "QuantizedExperts":
        for size, (*places, codebook) in _STACKS.items():
            weight, scale, zero, unit = places
            yield node.attributes[size].as_int(), ((weight, scale, zero, unit),), codebook
    elif node.op_type in _MATRICES:
        matrices, codebook = _MATRICES[node.op_type]
        yield node.attributes["group_size"].as_int(), matrices, codebook


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

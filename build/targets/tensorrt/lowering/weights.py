"""Lowerings of operators on weights: nothing enters the network until a product or a norm reads the result.

A weight is arranged on the host, when it is written beside the plan. Only the swap of a matrix's axes is left to the
product, so that plain weights keep the checkpoint's bytes.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import integer
from inflight.build.targets.tensorrt.lowering.host_tensor import Array
from inflight.build.targets.tensorrt.lowering.writer import Scale, Weight


def transpose(weight: Weight, permutation: tuple[int, ...]) -> Weight:
    if permutation == (1, 0):
        return Weight(weight.stored, not weight.transposed, weight.scale)
    assert not weight.transposed, f"{weight.stored.name} is permuted twice"
    scale = weight.scale
    if scale is not None:
        assert len(scale.values.shape) == len(permutation), f"{weight.stored.name} is not scaled in blocks"
        scale = Scale(scale.values.transposed(permutation), permutation.index(scale.axis), scale.block_size)
    return Weight(weight.stored.transposed(permutation), False, scale)


def reshape(weight: Weight, shape: tuple[int, ...]) -> Weight:
    """Axes behind that of the blocks may be merged; the first one stays."""
    scale = weight.scale
    if scale is not None:
        assert scale.axis == 0 and weight.stored.shape[0] == shape[0], f"{weight.stored.name} loses its blocks"
        scale = Scale(scale.values.reshaped((scale.values.shape[0], *shape[1:])), 0, scale.block_size)
    return Weight(weight.stored.reshaped(shape), weight.transposed, scale)


def columns(weight: Weight, shape: tuple[int, ...]) -> Weight:
    """The first columns, and their scales."""
    assert not weight.transposed and weight.stored.shape[:-1] == shape[:-1], f"{weight.stored.name} is cut otherwise"
    scale = weight.scale
    if scale is not None:
        scale = Scale(scale.values.columns(shape[-1]), scale.axis, scale.block_size)
    return Weight(weight.stored.columns(shape[-1]), False, scale)


def concatenate(weight: Weight, rows: Array) -> Weight:
    assert weight.scale is None and not weight.transposed, f"{weight.stored.name} is not a plain weight"
    return Weight(weight.stored.followed_by(rows))


def dequantize(node: ir.Node, levels: Weight, values: Weight) -> Weight:
    """Integers or 8-bit floats times one scale, one for each index of `axis`, or one for each block of `axis`."""
    stored, value = levels.stored, node.inputs[0]
    assert value is not None and levels.scale is None and values.scale is None, f"{stored.name} is scaled twice"
    axis = integer(node, "axis", 1) % len(shape_of(value))
    return Weight(stored, levels.transposed, Scale(values.stored, axis, integer(node, "block_size", 0)))

"""Packing of [batch, step]: TensorRT's network holds the rows of all sequences without padding.

A value of the standard network whose shape has `batch` on axis 0 and `step` on another axis is held as [T, ...]: the T
tokens of the whole step take the place of `batch`, and the axis `step` is gone. So [batch, step, heads, size] and
[batch, heads, step, size] are the same [T, heads, size], and the transposition between them is nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from inflight.build.graph.values import Dim, shape_of
from inflight.build.network.layers import BATCH, STEP

# A dimension that is known when the engine runs.
DYNAMIC = -1


def packed_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape in TensorRT's network; the tokens, or the sequences of a value without rows, are DYNAMIC."""
    return tuple(dim if isinstance(dim, int) else DYNAMIC for dim in shape_of(value) if dim != STEP)


def packed_axis(value: ir.Value, axis: int) -> int:
    """Where axis `axis` (from the end when negative) of `value` lies once it is packed."""
    shape = shape_of(value)
    axis %= len(shape)
    assert shape[axis] != STEP, f"{value.name} is cut along its rows"
    return axis - shape[:axis].count(STEP)


def packed_permutation(value: ir.Value, permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation of the packed axes that transposing `value` comes to."""
    shape = shape_of(value)
    kept = [axis for axis in permutation if shape[axis] != STEP]
    return tuple(packed_axis(value, axis) for axis in kept)


def has_rows(shape: Sequence[Dim]) -> bool:
    return BATCH in shape and STEP in shape

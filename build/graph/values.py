"""Typed access to facts of an onnx-ir value that are always set here, though onnx-ir allows None."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_ir as ir

Dim = int | str


def name_of(value: ir.Value) -> str:
    assert value.name is not None, "every value is named when it is made"
    return str(value.name)


def dtype_of(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None, f"{value.name} has no dtype"
    return value.dtype


def shape_of(value: ir.Value) -> tuple[Dim, ...]:
    """Sizes where they are known, names of symbols elsewhere."""
    assert value.shape is not None, f"{value.name} has no shape"
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)


def tensor_of(initializer: ir.Value) -> ir.TensorProtocol:
    assert initializer.const_value is not None, f"{initializer.name} is not an initializer"
    return initializer.const_value


def array_of(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The elements of a constant, or None when the value is not one."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def retype(value: ir.Value, dtype: ir.DataType) -> None:
    """Change the dtype of this value alone: assigning `value.dtype` would change every value that shares its type."""
    value.type = ir.TensorType(dtype)


def new_value(name: str, dtype: ir.DataType, shape: tuple[Dim, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

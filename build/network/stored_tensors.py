"""Tensors of a safetensors file as external tensors of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from inflight.build.graph.dtypes import onnx_dtype
from inflight.files.tensor_file import TensorEntry


def stored_tensor(
    entry: TensorEntry, *, dtype: ir.DataType | None = None, shape: Sequence[int] | None = None
) -> ir.ExternalTensor:
    """The tensor at its place in the file; with `dtype` or `shape`, the same bytes seen in another way."""
    return ir.ExternalTensor(
        location=entry.file.name,
        offset=entry.offset,
        length=entry.nbytes,
        dtype=dtype or onnx_dtype(entry.dtype),
        shape=ir.Shape(entry.shape if shape is None else shape),
        name=entry.name,
        base_dir=str(entry.file.parent),
    )


def seen_as(name: str, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> ir.Value:
    """An initializer of the same elements in another shape."""
    if not isinstance(tensor, ir.ExternalTensor):
        return initializer(name, ir.tensor(tensor.numpy().reshape(shape), name=tensor.name))
    return initializer(
        name,
        ir.ExternalTensor(
            location=tensor.location,
            offset=tensor.offset,
            length=tensor.length,
            dtype=tensor.dtype,
            shape=ir.Shape(shape),
            name=tensor.name or "",
            base_dir=tensor.base_dir,
        ),
    )


def initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A value that holds `tensor`, which no graph owns yet."""
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)

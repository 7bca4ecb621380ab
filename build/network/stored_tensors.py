"""Tensors of a safetensors file as external tensors of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from inflight.tensor_file import TensorEntry

_ONNX_NAMES = {"float32": "FLOAT", "float8_e4m3fn": "FLOAT8E4M3FN"}


def stored_tensor(
    entry: TensorEntry, *, dtype: ir.DataType | None = None, shape: Sequence[int] | None = None
) -> ir.ExternalTensor:
    """The tensor at its place in the file; with `dtype` or `shape`, the same bytes seen in another way."""
    return ir.ExternalTensor(
        location=entry.file.name,
        offset=entry.offset,
        length=entry.nbytes,
        dtype=dtype or ir.DataType[_ONNX_NAMES.get(entry.dtype, entry.dtype.upper())],
        shape=ir.Shape(entry.shape if shape is None else shape),
        name=entry.name,
        base_dir=str(entry.file.parent),
    )

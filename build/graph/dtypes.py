"""The table of types (inflight.dtypes) in onnx-ir's words."""

from __future__ import annotations

import onnx_ir as ir

from inflight.dtypes import DTYPES, Dtype, by_onnx


def onnx_dtype(name: str) -> ir.DataType:
    """The ONNX type of that name. Raises KeyError for one that is not in the table."""
    return ir.DataType[DTYPES[name].onnx]


def facts_of(dtype: ir.DataType) -> Dtype:
    """The row of the table for an ONNX type. Raises KeyError for one that is not in it."""
    return by_onnx(dtype.name)

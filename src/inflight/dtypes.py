"""Every type of a number that is stored or computed with, and what each tool calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

DtypeName = Literal[
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "int32",
    "int16",
    "int8",
    "int4",
    "uint4",
    "uint8",
    "bool",
]


class Dtype(NamedTuple):
    """One type by its names; None where a tool has no name for it, or nothing here uses it there.

    `name` is that of numpy, ml_dtypes and torch. `onnx` names a member of onnx.TensorProto.DataType, `c` one of
    `element` (kernels/vec.h), `triton` the type of an element in the Triton language, `tensorrt` a member of
    tensorrt.DataType.
    """

    name: DtypeName
    bits: int
    onnx: str
    safetensors: str | None = None
    c: str | None = None
    triton: str | None = None
    tensorrt: str | None = None


# TensorRT's integers of a network are 32 bits wide: positions and ids are nowhere near 2^31.
_ALL = (
    Dtype("float64", 64, "DOUBLE", "F64", triton="fp64"),
    Dtype("float32", 32, "FLOAT", "F32", "F32", "fp32", "FLOAT"),
    Dtype("float16", 16, "FLOAT16", "F16", "F16", "fp16", "HALF"),
    Dtype("bfloat16", 16, "BFLOAT16", "BF16", "BF16", "bf16", "BF16"),
    Dtype("float8_e4m3fn", 8, "FLOAT8E4M3FN", "F8_E4M3", "E4M3", "fp8e4nv", "FP8"),
    Dtype("float8_e5m2", 8, "FLOAT8E5M2", "F8_E5M2", triton="fp8e5"),
    Dtype("int64", 64, "INT64", "I64", triton="i64", tensorrt="INT32"),
    Dtype("int32", 32, "INT32", "I32", triton="i32", tensorrt="INT32"),
    Dtype("int16", 16, "INT16", "I16", triton="i16"),
    Dtype("int8", 8, "INT8", "I8", "I8", "i8", "INT8"),
    Dtype("int4", 4, "INT4", c="I4", tensorrt="INT4"),
    Dtype("uint4", 4, "UINT4"),
    Dtype("uint8", 8, "UINT8", "U8", triton="u8"),
    Dtype("bool", 8, "BOOL", "BOOL", triton="i1", tensorrt="BOOL"),
)
DTYPES: dict[str, Dtype] = {dtype.name: dtype for dtype in _ALL}
# What a checkpoint can store its plain tensors in, and a network can compute in.
FLOAT_DTYPES: tuple[DtypeName, ...] = ("float32", "float16", "bfloat16")


def by_safetensors(code: str) -> Dtype | None:
    """The type that a safetensors header calls `code`."""
    return next((dtype for dtype in _ALL if dtype.safetensors == code), None)


def by_onnx(name: str) -> Dtype:
    """The type that ONNX calls `name`. Raises KeyError."""
    return next((dtype for dtype in _ALL if dtype.onnx == name), None) or DTYPES[name]


def dtype_name(name: str) -> DtypeName:
    """`name`, which must be one of the table. Raises KeyError."""
    return DTYPES[name].name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy type of that name; ml_dtypes knows those that numpy does not. Raises KeyError for an unknown name."""
    import numpy as np

    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(DTYPES[name].name)

"""The table of types against the tools that it speaks of."""

from __future__ import annotations

from typing import get_args

import onnx
import onnx_ir as ir
import pytest
from safetensors import deserialize

from inflight.build.graph.dtypes import facts_of, onnx_dtype
from inflight.dtypes import DTYPES, Dtype, DtypeName, by_safetensors, numpy_dtype
from inflight.files.tensor_file import encode_header
from tests.paths import ROOT

pytestmark = pytest.mark.unit

TYPES = pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))


def test_every_name_has_a_row() -> None:
    assert tuple(DTYPES) == get_args(DtypeName)


@TYPES
def test_numpy_and_onnx_know_it_by_these_names(dtype: Dtype) -> None:
    found = numpy_dtype(dtype.name)
    assert found.name == dtype.name
    assert dtype.bits in (8 * found.itemsize, 4)
    assert onnx_dtype(dtype.name) == getattr(onnx.TensorProto, dtype.onnx)
    assert ir.DataType.from_numpy(found) == onnx_dtype(dtype.name)
    assert facts_of(onnx_dtype(dtype.name)) is dtype
    assert 8 * onnx_dtype(dtype.name).itemsize == dtype.bits


@TYPES
def test_safetensors_knows_it_by_this_name(dtype: Dtype) -> None:
    if dtype.safetensors is None:
        return
    data = encode_header({"x": (dtype.name, (3,))}) + bytes(3 * dtype.bits // 8)
    ((_, facts),) = deserialize(data)  # type: ignore[no-untyped-call]
    assert facts["dtype"] == dtype.safetensors
    assert by_safetensors(dtype.safetensors) is dtype


def test_the_kernels_have_these_elements() -> None:
    text = (ROOT / "build/targets/cpu/kernels/vec.h").read_text()
    listed = text.split("typedef enum {")[1].split("}")[0]
    elements = {name.strip() for name in listed.split(",")}
    assert elements == {dtype.c for dtype in DTYPES.values() if dtype.c}

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from inflight.build.passes.embedding import fuse_embedding
from tests.network.graphs import FLOAT, SmallGraph, assert_same_result, op_types

pytestmark = pytest.mark.network

INT64 = ir.DataType.INT64


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_gather_and_cast_become_one_lookup(dtype: npt.DTypeLike, rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    ids = small.input("ids", INT64, ("batch", "step"))
    table = small.constant("table", rng.standard_normal((11, 6)), dtype)
    x = small.op("Gather", [table, ids], "rows", table.dtype, ("batch", "step", 6))
    if table.dtype != FLOAT:
        x = small.op("Cast", [x], "x", FLOAT, ("batch", "step", 6), {"to": FLOAT.value})
    model = small.model(x)
    assert_same_result(model, [fuse_embedding], {"ids": rng.integers(0, 11, (2, 3))})
    assert op_types(model) == ["EmbeddingLookup"]


def test_a_gather_along_another_axis_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    ids = small.input("ids", INT64, ("batch",))
    table = small.constant("table", rng.standard_normal((11, 6)), np.float32)
    model = small.model(small.op("Gather", [table, ids], "columns", FLOAT, (11, "batch"), {"axis": 1}))
    fuse_embedding(model.graph)
    assert op_types(model) == ["Gather"]

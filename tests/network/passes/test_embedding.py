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


@pytest.mark.parametrize("scale", [None, 13.75])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_gather_cast_and_scale_become_one_lookup(
    dtype: npt.DTypeLike, scale: float | None, rng: np.random.Generator
) -> None:
    small = SmallGraph(rng)
    ids = small.input("ids", INT64, ("batch", "step"))
    table = small.constant("table", rng.standard_normal((11, 6)), dtype)
    x = small.op("Gather", [table, ids], "rows", table.dtype, ("batch", "step", 6))
    if table.dtype != FLOAT:
        x = small.op("Cast", [x], "x", FLOAT, ("batch", "step", 6), {"to": FLOAT.value})
    if scale is not None:
        factor = small.constant("scale", scale, np.float32)
        x = small.op("Mul", [factor, x] if rng.random() < 0.5 else [x, factor], "scaled", FLOAT, ("batch", "step", 6))
    model = small.model(x)
    assert_same_result(model, [fuse_embedding], {"ids": rng.integers(0, 11, (2, 3))})
    assert op_types(model) == ["EmbeddingLookup"]
    assert model.graph[0].attributes["scale"].as_float() == (scale or 1.0)


def test_a_scale_for_each_column_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    table = small.constant("table", rng.standard_normal((11, 6)), np.float32)
    rows = small.op("Gather", [table, small.input("ids", INT64, ("batch", "step"))], "x", FLOAT, ("batch", "step", 6))
    factors = small.constant("factors", rng.standard_normal(6), np.float32)
    model = small.model(small.op("Mul", [rows, factors], "scaled", FLOAT, ("batch", "step", 6)))
    fuse_embedding(model.graph)
    assert op_types(model) == ["EmbeddingLookup", "Mul"]


def test_a_gather_along_another_axis_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    ids = small.input("ids", INT64, ("batch",))
    table = small.constant("table", rng.standard_normal((11, 6)), np.float32)
    model = small.model(small.op("Gather", [table, ids], "columns", FLOAT, (11, "batch"), {"axis": 1}))
    fuse_embedding(model.graph)
    assert op_types(model) == ["Gather"]

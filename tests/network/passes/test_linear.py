from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.passes.linear import fuse_linear
from tests.network.graphs import FLOAT, SmallGraph, assert_same_result, op_types

pytestmark = pytest.mark.network


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_product_cast_transpose_and_bias_become_one_linear(
    dtype: npt.DTypeLike, bias: bool, rng: np.random.Generator
) -> None:
    small = SmallGraph(rng)
    x, weight = small.rows("x", 7), small.weight("w", (5, 7), dtype)
    y = small.op("MatMul", [x, small.transposed(weight)], "y", FLOAT, ("batch", "step", 5))
    if bias:
        y = small.add(y, small.weight("b", (5,), dtype), "biased")
    model = small.model(y)
    assert_same_result(model, [fuse_linear], {"x": rng.standard_normal((2, 3, 7)).astype(np.float32)})
    (linear,) = model.graph
    assert linear.op_type == "Linear" and len(linear.inputs) == 2 + bias
    assert all(value.const_value.numpy().dtype == np.dtype(dtype) for value in linear.inputs[1:])


def test_a_product_of_two_computed_values_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    x = small.rows("x", 4)
    turned = small.op("Transpose", [x], "turned", FLOAT, ("batch", 4, "step"), {"perm": [0, 2, 1]})
    model = small.model(small.op("MatMul", [x, turned], "y", FLOAT, ("batch", "step", "step")))
    fuse_linear(model.graph)
    assert op_types(model) == ["Transpose", "MatMul"]


def test_a_product_that_others_read_keeps_its_bias_apart(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    product = small.linear(small.rows("x", 4), "y", 6)
    model = small.model(small.add(product, small.weight("b", (6,)), "biased"), product)
    fuse_linear(model.graph)
    assert op_types(model) == ["Linear", "Add"]

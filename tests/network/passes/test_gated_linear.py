from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.passes.gated_linear import fuse_gated_linear
from inflight.build.passes.linear import fuse_linear
from tests.network.graphs import FLOAT, SmallGraph, assert_same_result, op_types

pytestmark = pytest.mark.network


def _swiglu(small: SmallGraph, *, swapped: bool = False, bias: bool = False, alpha: float = 1.0) -> ir.Value:
    x = small.rows("x", 6)
    gate, up = small.linear(x, "gate", 10, bias), small.linear(x, "up", 10)
    shape = ("batch", "step", 10)
    activated = small.op("Swish", [gate], "activated", FLOAT, shape, {"alpha": alpha})
    return small.op("Mul", [up, activated] if swapped else [activated, up], "y", FLOAT, shape)


@pytest.mark.parametrize("swapped", [False, True])
def test_swiglu_becomes_one_node_whichever_way_it_is_multiplied(swapped: bool, rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(_swiglu(small, swapped=swapped))
    inputs = {"x": rng.standard_normal((2, 3, 6)).astype(np.float32)}
    assert_same_result(model, [fuse_linear, fuse_gated_linear], inputs)
    (node,) = model.graph
    assert node.op_type == "GatedLinear"
    assert [value.name for value in node.inputs] == ["x", "gate.weight", "up.weight"]


@pytest.mark.parametrize("difference", [{"bias": True}, {"alpha": 1.7}], ids=str)
def test_another_gate_is_left_alone(difference: dict[str, Any], rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(_swiglu(small, **difference))
    fuse_linear(model.graph)
    fuse_gated_linear(model.graph)
    assert op_types(model) == ["Linear", "Linear", "Swish", "Mul"]


def test_the_two_projections_must_read_the_same_rows(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    shape = ("batch", "step", 4)
    gate, up = small.linear(small.rows("x", 6), "gate", 4), small.linear(small.rows("z", 6), "up", 4)
    activated = small.op("Swish", [gate], "activated", FLOAT, shape)
    model = small.model(small.op("Mul", [activated, up], "y", FLOAT, shape))
    fuse_linear(model.graph)
    fuse_gated_linear(model.graph)
    assert op_types(model) == ["Linear", "Linear", "Swish", "Mul"]

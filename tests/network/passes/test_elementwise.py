"""The passes scale, soft_cap and add_rows: what stands between products and norms."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.passes.add_rows import fuse_add_rows
from inflight.build.passes.scale import fuse_scale
from inflight.build.passes.soft_cap import fuse_soft_cap
from tests.network.graphs import FLOAT, Array, SmallGraph, assert_same_result, op_types

pytestmark = pytest.mark.network

SHAPE = ("batch", "step", 6)
PASSES = [fuse_soft_cap, fuse_scale, fuse_add_rows]


def _times(small: SmallGraph, x: ir.Value, factor: float, name: str) -> ir.Value:
    return small.op("Mul", [x, small.constant(f"{name}.factor", factor, np.float32)], name, FLOAT, SHAPE)


def _capped(small: SmallGraph, x: ir.Value, divisor: float, factor: float) -> ir.Value:
    divided = small.op("Div", [x, small.constant("cap", divisor, np.float32)], "divided", FLOAT, SHAPE)
    return _times(small, small.op("Tanh", [divided], "tanh", FLOAT, SHAPE), factor, "capped")


def _rows(rng: np.random.Generator, *names: str) -> dict[str, Array]:
    return {name: rng.standard_normal((2, 3, 6)).astype(np.float32) for name in names}


def test_rows_times_a_constant_become_a_scale(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(_times(small, small.rows("x", 6), 0.3, "y"))
    assert_same_result(model, [fuse_scale], _rows(rng, "x"))
    assert op_types(model) == ["Scale"]


def test_rows_times_a_vector_are_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(small.op("Mul", [small.rows("x", 6), small.weight("w", (6,))], "y", FLOAT, SHAPE))
    fuse_scale(model.graph)
    assert op_types(model) == ["Mul"]


def test_a_soft_cap_is_one_node(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(_capped(small, small.rows("x", 6), 1.7, 1.7))
    assert_same_result(model, PASSES, _rows(rng, "x"))
    assert op_types(model) == ["SoftCap"]
    assert model.graph[0].attributes["cap"].as_float() == pytest.approx(1.7)


def test_a_tanh_between_two_caps_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(_capped(small, small.rows("x", 6), 1.7, 1.8))
    fuse_soft_cap(model.graph)
    assert op_types(model) == ["Div", "Tanh", "Mul"]


@pytest.mark.parametrize("scaled", ["left", "right", "neither", "both"])
def test_a_sum_takes_up_the_scale_of_one_of_its_operands(scaled: str, rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    operands = [small.rows(name, 6) for name in ("left", "right")]
    for index, name in enumerate(("left", "right")):
        if scaled in (name, "both"):
            operands[index] = _times(small, operands[index], 0.3 + index, f"{name}.scaled")
    model = small.model(small.add(operands[0], operands[1], "y"))
    assert_same_result(model, PASSES, _rows(rng, "left", "right"))
    assert op_types(model) == (["Scale", "AddRows"] if scaled == "both" else ["AddRows"])


def test_a_scale_that_others_read_stands_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    scaled = _times(small, small.rows("x", 6), 0.3, "scaled")
    model = small.model(small.add(scaled, small.rows("residual", 6), "y"), scaled)
    assert_same_result(model, PASSES, _rows(rng, "x", "residual"))
    assert op_types(model) == ["Scale", "AddRows"]


def test_a_sum_of_two_shapes_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(small.op("Add", [small.rows("x", 6), small.weight("b", (6,))], "y", FLOAT, SHAPE))
    fuse_add_rows(model.graph)
    assert op_types(model) == ["Add"]

from __future__ import annotations

import numpy as np
import pytest

from inflight.build.passes.add_residual import add_residual
from inflight.build.passes.linear import fuse_linear
from inflight.build.passes.rms_norm import fuse_rms_norm
from tests.network.graphs import SmallGraph, assert_same_result, op_types

pytestmark = pytest.mark.network


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", ["residual", "product"])
def test_a_projection_adds_to_the_residual_stream_itself(bias: bool, first: str, rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    residual, product = small.rows("residual", 5), small.linear(small.rows("x", 7), "y", 5, bias)
    operands = (residual, product) if first == "residual" else (product, residual)
    model = small.model(small.add(*operands, "sum"))
    inputs = {name: rng.standard_normal((2, 3, size)).astype(np.float32) for name, size in (("residual", 5), ("x", 7))}
    assert_same_result(model, [fuse_linear, add_residual], inputs)
    (linear,) = model.graph
    assert linear.op_type == "Linear" and linear.outputs[0].name == "sum" and linear.inputs[3] is residual
    assert (linear.inputs[2] is not None) == bias


def test_of_two_projections_one_adds_the_other(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    x = small.rows("x", 4)
    model = small.model(small.add(small.linear(x, "left", 6), small.linear(x, "right", 6), "sum"))
    assert_same_result(model, [fuse_linear, add_residual], {"x": rng.standard_normal((2, 3, 4)).astype(np.float32)})
    assert op_types(model) == ["Linear", "Linear"]


def test_a_projection_adds_one_residual_only(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    once = small.add(small.linear(small.rows("x", 4), "y", 6), small.rows("a", 6), "once")
    model = small.model(small.add(once, small.rows("b", 6), "twice"))
    fuse_linear(model.graph)
    add_residual(model.graph)
    assert op_types(model) == ["Linear", "Add"]


def test_a_sum_of_two_shapes_of_itself_or_of_what_others_read_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    wide = small.linear(small.rows("x", 4), "wide", 6)
    doubled = small.linear(small.rows("z", 4), "doubled", 6)
    shared = small.linear(small.rows("w", 4), "shared", 6)
    model = small.model(
        small.op("Add", [wide, small.weight("b", (1, 1, 6))], "broadcast", wide.dtype, tuple(wide.shape)),
        small.add(doubled, doubled, "twice"),
        small.add(shared, small.rows("residual", 6), "sum"),
        shared,
    )
    fuse_linear(model.graph)
    add_residual(model.graph)
    assert op_types(model).count("Add") == 3


@pytest.mark.parametrize("first", ["residual", "norm"])
def test_a_norm_behind_a_projection_adds_to_the_residual_stream_itself(first: str, rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    residual, norm = small.rows("residual", 5), small.norm(small.linear(small.rows("x", 7), "y", 5), "norm")
    model = small.model(small.add(*((residual, norm) if first == "residual" else (norm, residual)), "sum"))
    inputs = {name: rng.standard_normal((2, 3, size)).astype(np.float32) for name, size in (("residual", 5), ("x", 7))}
    assert_same_result(model, [fuse_linear, fuse_rms_norm, add_residual], inputs)
    assert op_types(model) == ["Linear", "RMSNorm"]
    assert model.graph[1].inputs[2] is residual

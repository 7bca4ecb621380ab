from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.passes.activation import fuse_activation
from inflight.build.passes.gate import fuse_gate
from inflight.build.passes.gated_linear import fuse_gated_linear
from inflight.build.passes.linear import fuse_linear
from tests.network.graphs import FLOAT, SmallGraph, assert_same_result, op_types

pytestmark = pytest.mark.network


SHAPE = ("batch", "step", 10)
# Operator, its attributes, and the name that the fused operator has for it.
ACTIVATIONS: list[tuple[str, dict[str, str], str]] = [
    ("Swish", {}, "silu"),
    ("Gelu", {"approximate": "tanh"}, "gelu_tanh"),
    ("Gelu", {"approximate": "none"}, "gelu"),
    ("Gelu", {}, "gelu"),
    ("Relu", {}, "relu"),
    # The square of a Relu, which is two operators.
    ("Mul", {}, "relu2"),
]


def _activated(small: SmallGraph, rows: ir.Value, op_type: str, attributes: Mapping[str, Any] | None) -> ir.Value:
    if op_type == "Mul":
        relu = small.op("Relu", [rows], "relu", FLOAT, SHAPE)
        return small.op("Mul", [relu, relu], "activated", FLOAT, SHAPE)
    return small.op(op_type, [rows], "activated", FLOAT, SHAPE, attributes)


def _gated(
    small: SmallGraph,
    op_type: str = "Swish",
    attributes: Mapping[str, Any] | None = None,
    *,
    swapped: bool = False,
    biases: tuple[bool, bool] = (False, False),
) -> ir.Value:
    x = small.rows("x", 6)
    gate, up = small.linear(x, "gate", 10, biases[0]), small.linear(x, "up", 10, biases[1])
    activated = _activated(small, gate, op_type, attributes)
    return small.op("Mul", [up, activated] if swapped else [activated, up], "y", FLOAT, SHAPE)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_mlp_becomes_one_node_whichever_way_it_is_multiplied(
    swapped: bool, bias: bool, rng: np.random.Generator
) -> None:
    small = SmallGraph(rng)
    model = small.model(_gated(small, swapped=swapped, biases=(bias, bias)))
    inputs = {"x": rng.standard_normal((2, 3, 6)).astype(np.float32)}
    assert_same_result(model, [fuse_linear, fuse_gated_linear], inputs)
    (node,) = model.graph
    assert node.op_type == "GatedLinear"
    names = ["x", "gate.weight", "up.weight", *(["gate.bias", "up.bias"] if bias else [])]
    assert [value.name for value in node.inputs] == names


@pytest.mark.parametrize(("op_type", "attributes", "name"), ACTIVATIONS)
def test_any_activation_is_fused_with_a_gate_and_without_one(
    op_type: str, attributes: dict[str, str], name: str, rng: np.random.Generator
) -> None:
    gated, plain = SmallGraph(rng), SmallGraph(rng)
    models = [
        gated.model(_gated(gated, op_type, attributes)),
        plain.model(_activated(plain, plain.linear(plain.rows("x", 6), "fc", 10), op_type, attributes)),
    ]
    for model, expected in zip(models, (["GatedLinear"], ["Linear", "Activation"]), strict=True):
        inputs = {"x": rng.standard_normal((2, 3, 6)).astype(np.float32)}
        assert_same_result(model, [fuse_linear, fuse_gated_linear, fuse_activation], inputs)
        assert op_types(model) == expected
        assert model.graph[-1].attributes["activation"].as_string() == name


@pytest.mark.parametrize("biases", [(True, False), (False, True)])
@pytest.mark.parametrize(("op_type", "attributes", "name"), ACTIVATIONS)
def test_projections_of_which_one_has_a_bias_are_gated_apart(
    op_type: str, attributes: dict[str, str], name: str, biases: tuple[bool, bool], rng: np.random.Generator
) -> None:
    small = SmallGraph(rng)
    model = small.model(_gated(small, op_type, attributes, biases=biases))
    inputs = {"x": rng.standard_normal((2, 3, 6)).astype(np.float32)}
    assert_same_result(model, [fuse_linear, fuse_gated_linear, fuse_gate], inputs)
    assert op_types(model) == ["Linear", "Linear", "Gate"]
    assert model.graph[-1].attributes["activation"].as_string() == name


@pytest.mark.parametrize(("weights", "fused"), [("bfloat16", True), ("float32", False)])
def test_a_gate_of_short_rows_is_fused_only_where_a_product_reads_short_ones(
    weights: str, fused: bool, rng: np.random.Generator
) -> None:
    """Weights alone are bfloat16 here: they say in which type a product reads and makes rows."""
    small = SmallGraph(rng)
    model = small.model(small.linear(_gated(small), "proj", 5))
    fuse_linear(model.graph)
    for node in model.graph:
        if node.op_type == "Linear":
            weight = node.inputs[1]
            assert weight is not None
            short = "proj" not in str(weight.name) or weights == "bfloat16"
            weight.dtype = ir.DataType.BFLOAT16 if short else FLOAT
    fuse_gated_linear(model.graph)
    assert op_types(model) == (["GatedLinear", "Linear"] if fused else ["Linear", "Linear", "Swish", "Mul", "Linear"])


def test_another_swish_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(_gated(small, attributes={"alpha": 1.7}))
    for run in (fuse_linear, fuse_gated_linear, fuse_activation):
        run(model.graph)
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

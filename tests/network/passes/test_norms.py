"""The passes rms_norm and layer_norm."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.build.passes.layer_norm import fuse_layer_norm
from inflight.build.passes.rms_norm import fuse_rms_norm
from tests.network.graphs import FLOAT, SmallGraph, assert_same_result, op_types

pytestmark = pytest.mark.network


def test_a_norm_of_rows_is_fused_with_its_epsilon(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(small.norm(small.rows("x", 9), "y"))
    assert_same_result(model, [fuse_rms_norm], {"x": rng.standard_normal((2, 3, 9)).astype(np.float32)})
    assert op_types(model) == ["RMSNorm"]
    assert model.graph[0].attributes["epsilon"].as_float() == pytest.approx(1e-3)


def test_a_norm_of_heads_is_left_to_the_rope_pass(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    heads = small.input("heads", FLOAT, ("batch", "step", 3, 8))
    model = small.model(small.norm(heads, "y"))
    fuse_rms_norm(model.graph)
    assert op_types(model) == ["RMSNormalization"]


@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_norm_is_fused_with_its_epsilon_and_its_bias(biased: bool, rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    inputs = [small.rows("x", 9), small.weight("weight", (9,)), *([small.weight("bias", (9,))] if biased else [])]
    attributes = {"axis": -1, "epsilon": 1e-3}
    model = small.model(small.op("LayerNormalization", inputs, "y", FLOAT, ("batch", "step", 9), attributes))
    assert_same_result(model, [fuse_layer_norm], {"x": rng.standard_normal((2, 3, 9)).astype(np.float32)})
    assert op_types(model) == ["LayerNorm"]
    assert model.graph[0].attributes["epsilon"].as_float() == pytest.approx(1e-3)
    assert len(model.graph[0].inputs) == 2 + biased


def test_a_layer_norm_of_heads_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    heads, weight = small.input("heads", FLOAT, ("batch", "step", 3, 8)), small.weight("weight", (8,))
    model = small.model(small.op("LayerNormalization", [heads, weight], "y", FLOAT, ("batch", "step", 3, 8)))
    fuse_layer_norm(model.graph)
    assert op_types(model) == ["LayerNormalization"]

"""The passes rms_norm and add_rms_norm."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.build.passes.add_rms_norm import fuse_add_rms_norm
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


def test_add_and_norm_become_one_node_that_also_yields_the_sum(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    total = small.add(small.rows("residual", 9), small.rows("delta", 9), "sum")
    model = small.model(small.norm(total, "y"), total)
    inputs = {name: rng.standard_normal((2, 3, 9)).astype(np.float32) for name in ("residual", "delta")}
    assert_same_result(model, [fuse_rms_norm, fuse_add_rms_norm], inputs)
    assert op_types(model) == ["AddRMSNorm"]
    assert [value.name for value in model.graph[0].outputs] == ["sum", "y"]


def test_an_add_that_broadcasts_is_left_alone(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    total = small.add(small.rows("x", 9), small.weight("b", (9,)), "sum")
    model = small.model(small.norm(total, "y"))
    fuse_rms_norm(model.graph)
    fuse_add_rms_norm(model.graph)
    assert op_types(model) == ["Add", "RMSNorm"]

"""The pass rms_norm."""

from __future__ import annotations

import numpy as np
import pytest

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

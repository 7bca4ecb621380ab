from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.network import build_network
from inflight.build.passes.check import check_fused
from inflight.build.passes.linear import fuse_linear
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.engine_format.manifest import Limits
from inflight.errors import BuildError
from tests.models.random_models import Shape
from tests.network.graphs import FLOAT, SmallGraph
from tests.network.support import make_case

pytestmark = pytest.mark.network


def test_every_operator_that_is_left_is_named_at_once(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    y = small.linear(small.rows("x", 4), "y", 4)
    for number, op_type in enumerate(["Erf", "Tanh"]):
        y = small.op(op_type, [y], f"left.{number}", FLOAT, ("batch", "step", 4))
    model = small.model(y)
    fuse_linear(model.graph)
    with pytest.raises(BuildError) as caught:
        check_fused(model.graph)
    assert "Erf left.0" in str(caught.value) and "Tanh left.1" in str(caught.value)
    assert "Linear" not in str(caught.value)


def test_a_malformed_fused_operator_is_named_with_what_it_lacks(rng: np.random.Generator) -> None:
    small = SmallGraph(rng)
    model = small.model(small.linear(small.rows("x", 4), "y", 4))
    fuse_linear(model.graph)
    model.graph[0].replace_input_with(1, None)
    with pytest.raises(BuildError, match="Linear y: lacks weight"):
        check_fused(model.graph)


def test_a_model_that_the_target_cannot_take_is_refused_with_a_way_out(tmp_path: Path, seed: int) -> None:
    network = build_network(make_case(tmp_path, Shape(num_layers=1), seed).checkpoint, 32)
    for node in network.graph:
        if node.op_type == "Swish":
            node.attributes.add(ir.AttrFloat32("alpha", 1.7))
    limits = Limits(max_batch_size=1, max_seq_len=32, max_num_tokens=8, max_logit_rows=1)
    with pytest.raises(BuildError, match="--target reference") as caught:
        lower_for_cpu(network, limits, tokens_per_block=16, kv_dtype="float32")
    assert "Swish layers.0.mlp.activation" in str(caught.value)

"""What the builder does when TensorRT says no: every return value is looked at, and its words reach the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.network import build_network
from inflight.build.targets.tensorrt.lowering.network import lower_network
from inflight.build.targets.tensorrt.lowering.table import LOWERINGS
from inflight.build.targets.tensorrt.modules import find_module
from inflight.build.targets.tensorrt.plan.builder import build_plan, lower_model
from inflight.build.targets.tensorrt.plan.weights import RefitWeights
from inflight.engine_format.manifest import Limits
from inflight.errors import BuildError
from tests.models.random_models import Shape
from tests.network.support import FAMILIES, make_case

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")

pytestmark = pytest.mark.network

LIMITS = Limits(max_batch_size=2, max_seq_len=32, max_num_tokens=16, max_logit_rows=2)
SHAPE = Shape(num_layers=1, head_size=32, queries_per_kv=2, hidden_size=128, intermediate_size=96)


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator, seed: int) -> ir.Model:
    family = str(rng.choice(FAMILIES))
    return build_network(make_case(tmp_path, replace(SHAPE, family=family), seed).checkpoint, LIMITS.max_seq_len)


class FailingNetwork:
    """A live network, one of whose calls fails as TensorRT's do: None for a layer, False for a name."""

    def __init__(self, network: Any, failing: int) -> None:
        self._network = network
        self._failing = failing
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._network, name)
        if not name.startswith(("add_", "set_weights", "mark_weights")):
            return real

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self._failing:
                return None if name.startswith("add_") else False
            return real(*arguments)

        return call


def lower_failing(model: ir.Model, failing: int) -> list[str]:
    """The calls that were made; -1 fails none."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = FailingNetwork(builder.create_network(1), failing)
    lower_network(trt, network, model.clone().graph, RefitWeights(trt), ir.DataType.FLOAT16)
    return network.calls


def test_each_call_that_fails_ends_the_lowering(model: ir.Model, rng: np.random.Generator) -> None:
    calls = lower_failing(model, -1)
    # One of each kind, and some more.
    chosen = {calls.index(name) for name in set(calls)} | set(rng.integers(len(calls), size=20).tolist())
    for failing in sorted(chosen):
        with pytest.raises(BuildError, match=r"TensorRT (refused to make|cannot leave)"):
            lower_failing(model, failing)


def test_a_refused_gpu_ends_the_build_though_tensorrt_would_go_on(model: ir.Model) -> None:
    lowered = lower_model(find_module(full=False), model, ir.DataType.FLOAT16, "inputs")
    for sm in ("90", "7"):
        with pytest.raises(BuildError, match=f"does not compile for SM{sm}"):
            build_plan(lowered, (sm,), LIMITS, "inputs")


def test_a_failed_build_has_tensorrts_own_words(tmp_path: Path, seed: int) -> None:
    """A network with too few heads for its fused attention, built without the checks that come first."""
    shape = replace(SHAPE, num_kv_heads=1, hidden_size=64)
    network = build_network(make_case(tmp_path, shape, seed).checkpoint, LIMITS.max_seq_len)
    lowered = lower_model(find_module(full=False), network, ir.DataType.FLOAT16, "inputs")
    with pytest.raises(BuildError, match=r"TensorRT refused to build for SM86:\n.*not supported by a dedicated kernel"):
        build_plan(lowered, ("86",), LIMITS, "inputs")


def test_operators_without_a_lowering_are_named_all_at_once(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: lowering for name, lowering in LOWERINGS.items() if name not in ("Swish", "Attention")}
    monkeypatch.setattr("inflight.build.targets.tensorrt.lowering.table.LOWERINGS", known)
    with pytest.raises(BuildError, match=r"no lowering for Attention \(as in .*\), Swish \(as in .*\)"):
        lower_model(find_module(full=False), model, ir.DataType.FLOAT16, "inputs")


def test_a_module_that_is_not_installed_is_named_with_its_extra() -> None:
    try:
        find_module(full=True)
    except BuildError as error:
        assert "tensorrt" in error.message and "inflight-llm[tensorrt]" in (error.hint or "")
    else:
        pytest.skip("full TensorRT is installed")

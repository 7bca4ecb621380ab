"""Engines over a paged cache, as far as they can be made without full TensorRT: the plan, the network, the refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from inflight.build.engine import build_engine, plan_engine
from inflight.build.network import build_network
from inflight.build.registry import make_recipe
from inflight.build.targets.tensorrt import build as target_module
from inflight.build.targets.tensorrt.api import PagedPlugins
from inflight.build.targets.tensorrt.lowering.cache_layout import BlockLayout, Ranges
from inflight.build.targets.tensorrt.lowering.network import lower_network
from inflight.build.targets.tensorrt.modules import find_plugins
from inflight.build.targets.tensorrt.plan.weights import InputWeights
from inflight.engine_format.manifest import Limits
from inflight.engine_format.tensorrt_facts import BLOCKS, TensorRtFacts
from inflight.errors import BuildError
from tests.models.random_models import Shape, random_shape
from tests.network.support import FAMILIES, make_case

pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")
pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")

import tensorrt_rtx as trt
import torch

from tests.network.tensorrt.plugin_api import ShapeExpr, TensorDesc, registered_plugins
from tests.network.tensorrt.plugin_network import PluginNetwork

pytestmark = pytest.mark.network

LIMITS = Limits(max_batch_size=4, max_seq_len=96, max_num_tokens=32, max_logit_rows=8)
PAGED = {
    "target": "tensorrt",
    "full": True,
    "kv_cache_type": "paged",
    "tokens_per_block": 32,
    **msgspec.structs.asdict(LIMITS),
}


def shape_of(rng: np.random.Generator) -> Shape:
    return replace(random_shape(rng, str(rng.choice(FAMILIES))), head_size=32, num_layers=2)


def test_rtx_says_that_it_has_no_plugins_and_what_works(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    case = make_case(tmp_path, shape_of(rng), seed, torch.float16)
    with pytest.raises(BuildError, match="TensorRT-RTX has none") as caught:
        build_engine(case.checkpoint.directory, tmp_path / "engine", make_recipe(**{**PAGED, "full": False}))
    assert "--full" in (caught.value.hint or "") and "slot" in (caught.value.hint or "")
    assert not (tmp_path / "engine").exists()


def test_float32_has_no_kernels_of_paged_attention(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    case = make_case(tmp_path, shape_of(rng), seed, torch.float32)
    with pytest.raises(BuildError, match="float16 or bfloat16, and the checkpoint is float32"):
        plan_engine(case.checkpoint.directory, make_recipe(**PAGED))


def test_a_tensorrt_without_such_plugins_is_refused() -> None:
    try:
        find_plugins()
    except BuildError as error:
        assert "compiled ahead of time" in error.message and error.hint
    else:
        pytest.skip("full TensorRT is installed")


class PluginModule:
    """tensorrt_rtx with networks that take plugins."""

    __name__, __version__ = "tensorrt", "11.0"

    def __getattr__(self, name: str) -> Any:
        return getattr(trt, name)

    def Builder(self, log: Any) -> Any:
        builder = trt.Builder(log)
        return SimpleNamespace(create_network=lambda flags: PluginNetwork(builder.create_network(flags)), held=builder)


def test_the_plan_of_an_engine_says_how_its_cache_is_paged(
    tmp_path: Path, rng: np.random.Generator, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(rng)
    case = make_case(tmp_path, shape, seed, torch.float16)
    with registered_plugins() as ops:
        monkeypatch.setattr(target_module, "find_module", lambda full: PluginModule())
        monkeypatch.setattr(target_module, "find_plugins", lambda: PagedPlugins(ops, 90))
        facts = plan_engine(case.checkpoint.directory, make_recipe(**PAGED)).target
    assert facts.kv_cache.layout == BLOCKS
    assert facts.kv_cache.tokens_per_block == 32
    assert facts.kv_cache.bytes_per_block == 32 * 2 * 2 * shape.num_layers * shape.num_kv_heads * shape.head_size
    assert isinstance(facts.own, TensorRtFacts)
    (plan,) = facts.own.plans
    assert plan.prompt_tile * shape.queries_per_kv <= 64 < (plan.prompt_tile + 1) * shape.queries_per_kv
    assert facts.recipe.kv_cache_type == "paged" and set(facts.tools) == {"tensorrt", "triton"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_network_around_the_plugins_builds(dtype: str, tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    """For TensorRT-RTX, with the plugins' results as inputs: cache updates by block, and both profiles' sizes."""
    case = make_case(tmp_path, shape_of(rng), seed, getattr(torch, dtype))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = PluginNetwork(builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)))
    compute = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}[dtype]
    layout, weights = BlockLayout(int(rng.choice([16, 32]))), InputWeights(trt)
    graph = build_network(case.checkpoint, LIMITS.max_seq_len).graph
    with registered_plugins() as ops:
        # The writer's memory must outlive the build.
        writer = lower_network(trt, network, graph, weights, compute, layout, PagedPlugins(ops, 90))
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        for ranges in layout.ranges(LIMITS):
            assert config.add_optimization_profile(_profile(builder, network, ranges)) >= 0
        assert builder.build_serialized_network(network.network, config) is not None
    assert writer.plugins is not None


def _profile(builder: Any, network: PluginNetwork, ranges: Ranges) -> Any:
    profile = builder.create_optimization_profile()
    shapes = [_shapes(network, ranges, which) for which in range(3)]
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if any(size < 0 for size in tensor.shape):
            profile.set_shape(tensor.name, *(chosen[tensor.name] for chosen in shapes))
    return profile


def _shapes(network: PluginNetwork, ranges: Ranges, which: int) -> dict[str, tuple[int, ...]]:
    """Of every input, the plugins' results as their descriptions have them."""
    produced = {tensor.name for call in network.calls for tensor in call.outputs}
    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.name not in produced:
            names = [tensor.get_dimension_name(axis) for axis in range(len(tensor.shape))]
            sizes = zip(tensor.shape, names, strict=True)
            shapes[tensor.name] = tuple(ranges[name][which] if size < 0 else size for size, name in sizes)
    for call, request in zip(network.calls, network.requests, strict=True):
        rows = {"paged_prefill": "T"}.get(request.plugin.name, "D")
        known = [shapes.get(tensor.name, (ranges[rows][which], *list(tensor.shape)[1:])) for tensor in call.inputs]
        described = request.outputs([TensorDesc([ShapeExpr(size) for size in shape], None) for shape in known])
        for tensor, output in zip(call.outputs, described, strict=True):
            shapes[tensor.name] = tuple(size.constant_value() for size in output.shape_expr)
    return shapes

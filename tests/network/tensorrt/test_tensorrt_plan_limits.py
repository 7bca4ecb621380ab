"""A plan's sizes against a manifest's, read from a live network and its profiles, as an opened plan reports them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace as with_sizes
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from msgspec.structs import replace

from inflight.build.network import build_network
from inflight.build.targets.tensorrt.api import PagedPlugins
from inflight.build.targets.tensorrt.lowering.cache_layout import SLOTS, BlockLayout, CacheLayout
from inflight.build.targets.tensorrt.lowering.network import lower_network
from inflight.build.targets.tensorrt.plan.profiles import add_profiles
from inflight.build.targets.tensorrt.plan.weights import InputWeights
from inflight.engine_format.manifest import EngineManifest, Limits
from inflight.errors import EngineError
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.executors.tensorrt.plan_limits import check_limits
from tests.engines.engine_files import RECIPE
from tests.models.random_models import Shape, random_shape
from tests.network.support import FAMILIES, make_case

pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")
pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")

import tensorrt_rtx as trt
import torch

from tests.network.tensorrt.plugin_api import registered_plugins
from tests.network.tensorrt.plugin_network import PluginNetwork

pytestmark = pytest.mark.network


class LiveSizes:
    """What an ICudaEngine says of its tensors, by the network and the profiles that it would be made of: no plan can be
    opened without a GPU. In the place of a builder's configuration, it takes the profiles."""

    def __init__(self, network: PluginNetwork) -> None:
        self._network = network
        self._profiles: list[Any] = []

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]:
        shapes: Sequence[Sequence[int]] = self._profiles[profile_index].get_shape(name)
        return shapes

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        outputs = (self._network.get_output(index) for index in range(self._network.num_outputs))
        return next(tuple(tensor.shape) for tensor in outputs if tensor.name == name)


def random_limits(rng: np.random.Generator) -> Limits:
    batch, tokens = int(rng.integers(1, 9)), int(rng.integers(9, 60))
    rows = int(rng.integers(batch, tokens + 1))
    return Limits(max_batch_size=batch, max_seq_len=96, max_num_tokens=tokens, max_logit_rows=rows)


def manifest_of(shape: Shape, limits: Limits, layout: CacheLayout) -> EngineManifest:
    null = null_manifest()
    sizes = {"head_size": shape.head_size, "num_key_value_heads": shape.num_kv_heads, "vocab_size": shape.vocab_size}
    kv = replace(null.kv_cache, layout=layout.name, tokens_per_block=layout.tokens_per_block(limits.max_seq_len))
    return replace(null, limits=limits, model=replace(null.model, **sizes), kv_cache=kv, recipe=RECIPE)


@pytest.mark.parametrize("layout", [SLOTS, BlockLayout(32)], ids=["slots", "blocks"])
def test_every_size_that_is_not_the_manifests_is_named(
    layout: CacheLayout, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    shape = with_sizes(random_shape(rng, str(rng.choice(FAMILIES))), head_size=32, num_layers=1)
    limits = random_limits(rng)
    case = make_case(tmp_path, shape, seed, torch.float16)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = PluginNetwork(builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)))
    graph, weights = build_network(case.checkpoint, limits.max_seq_len).graph, InputWeights(trt)
    with registered_plugins() if layout.pages else nullcontext() as ops:
        plugins = None if ops is None else PagedPlugins(ops, 90)
        writer = lower_network(trt, network, graph, weights, ir.DataType.FLOAT16, layout, plugins)
        made: Any = LiveSizes(network)
        inputs: Any = _Inputs(network, set(layout.inputs) | {"token_ids", "past_key.0"})
        add_profiles(builder, made, inputs, layout, limits)
    assert writer is not None

    right = manifest_of(shape, limits, layout)
    check_limits(made, right, tmp_path / "plan")
    by = int(rng.integers(1, 40))
    longer = "blocks of limits.max_seq_len" if layout.pages else "limits.max_seq_len"
    changed = {
        "limits.max_num_tokens": replace(right, limits=replace(limits, max_num_tokens=limits.max_num_tokens + by)),
        "limits.max_logit_rows": replace(right, limits=replace(limits, max_logit_rows=limits.max_logit_rows + by)),
        "limits.max_batch_size": replace(right, limits=replace(limits, max_batch_size=limits.max_batch_size + by)),
        longer: replace(right, limits=replace(limits, max_seq_len=limits.max_seq_len + by)),
        "kv_cache.tokens_per_block": replace(
            right, kv_cache=replace(right.kv_cache, tokens_per_block=right.kv_cache.tokens_per_block - 1)
        ),
        "model.num_key_value_heads": replace(
            right, model=replace(right.model, num_key_value_heads=shape.num_kv_heads + by)
        ),
        "model.head_size": replace(right, model=replace(right.model, head_size=shape.head_size + by)),
        "model.vocab_size": replace(right, model=replace(right.model, vocab_size=shape.vocab_size - 1)),
    }
    for name, manifest in changed.items():
        with pytest.raises(EngineError, match="was compiled for another engine") as caught:
            check_limits(made, manifest, tmp_path / "plan")
        assert name in caught.value.message and caught.value.hint


class _Inputs:
    """Some inputs of a network: the results of plugins, which stand in it as inputs, have no named sizes."""

    def __init__(self, network: PluginNetwork, names: set[str]) -> None:
        tensors = (network.get_input(index) for index in range(network.num_inputs))
        self._tensors = [tensor for tensor in tensors if tensor.name in names]
        self.num_inputs = len(self._tensors)

    def get_input(self, index: int) -> Any:
        return self._tensors[index]

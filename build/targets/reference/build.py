"""The reference target: the network as it is, its tables, and the checkpoint's weights; ONNX Runtime runs them."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from inflight.build.network.files import save_network
from inflight.build.target import QUANTIZED_CACHES, BuildFacts
from inflight.build.targets.reference.recipe import ReferenceRecipe
from inflight.build.targets.reference.round_cache import round_cache
from inflight.convert.checkpoint.cache_factors import cache_factors
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import TABLES, module_path
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.dtypes import dtype_name
from inflight.engine_format.manifest import KvCacheFacts, Limits, MemoryPlan, ModulePrecision
from inflight.engine_format.reference_facts import KV_LAYOUT, ReferenceFacts
from inflight.files.tensor_file import TensorEntry
from inflight.progress import Advance

_NETWORK_NAME = "network"

_FLOAT_BYTES = 4
_COPY_BYTES = 1 << 22


class ReferenceBuild:
    """A planned build: nothing is rewritten and nothing is compiled."""

    def __init__(self, network: ir.Model, checkpoint: Checkpoint, facts: BuildFacts) -> None:
        self.facts = facts
        self._network = network
        self._checkpoint = checkpoint

    def write(self, directory: Path, advance: Advance) -> None:
        save_network(self._network, directory, _NETWORK_NAME)
        source = self._checkpoint.rank_file()
        share = self.facts.memory.weights_bytes / max(1, source.stat().st_size)
        # The graph names the file of the weights, so the copy keeps its name.
        with source.open("rb") as weights, (directory / source.name).open("wb") as copy:
            while chunk := weights.read(_COPY_BYTES):
                copy.write(chunk)
                advance(len(chunk) * share)


def plan_build(network: ir.Model, checkpoint: Checkpoint, recipe: ReferenceRecipe) -> ReferenceBuild:
    """Every network that build_network makes is accepted. Caches and arithmetic are float32 whatever the recipe;
    keys and values of a quantized cache are rounded to its numbers first.
    """
    if recipe.kv_cache_dtype in QUANTIZED_CACHES:
        factors = cache_factors(checkpoint) if recipe.kv_cache_dtype == "fp8" else ()
        network = round_cache(network, recipe.kv_cache_dtype, factors)
    facts = BuildFacts(
        own=ReferenceFacts(network=f"{_NETWORK_NAME}.onnx"),
        recipe=recipe,
        kv_cache=_kv_cache_facts(checkpoint.spec, recipe),
        precision=_precision(checkpoint),
        memory=_memory(checkpoint, recipe.limits),
        tools={"onnxruntime": version("onnxruntime")},
    )
    return ReferenceBuild(network, checkpoint, facts)


def _kv_cache_facts(spec: ModelSpec, recipe: ReferenceRecipe) -> KvCacheFacts:
    """The type is that of the numbers; each takes the bytes of a float32."""
    return KvCacheFacts(
        dtype=recipe.cache_dtype,
        tokens_per_block=recipe.tokens_per_block,
        bytes_per_block=spec.kv_elements * _FLOAT_BYTES * recipe.tokens_per_block,
        layout=KV_LAYOUT,
    )


def _memory(checkpoint: Checkpoint, limits: Limits) -> MemoryPlan:
    """ONNX Runtime holds the weights as float32; its largest activations are attention scores and logits."""
    spec = checkpoint.spec
    weights = sum(math.prod(entry.shape) for entry in checkpoint.logical_tensors().values())
    heads = max(layer.attention.num_heads for layer in spec.layers)
    scores = heads * limits.max_num_tokens * limits.max_seq_len
    logits = limits.max_num_tokens * spec.output_size
    linear_cache = spec.kv_elements * limits.max_seq_len
    return MemoryPlan(
        weights_bytes=weights * _FLOAT_BYTES, workspace_bytes=(linear_cache + scores + logits) * _FLOAT_BYTES
    )


def _precision(checkpoint: Checkpoint) -> dict[str, ModulePrecision]:
    """Every matrix that multiplies rows, by the checkpoint name of its module."""
    tied = ("vocab_embedding",) if checkpoint.ties_embeddings else ()
    looked_up = {f"transformer.{table}.weight" for table in TABLES if table not in tied}
    return {
        module_path(name): _module_precision(checkpoint, entry)
        for name, entry in checkpoint.logical_tensors().items()
        if name.endswith(".weight") and len(entry.shape) >= 2 and name not in looked_up
    }


def _module_precision(checkpoint: Checkpoint, weight: TensorEntry) -> ModulePrecision:
    """Rows that meet quantized weights are rounded; the product is computed in float32 all the same."""
    quantization, stored = checkpoint.quantization_of(module_path(weight.name)), dtype_name(weight.dtype)
    if quantization is None:
        return ModulePrecision(weights=stored, activations="float32")
    return ModulePrecision(
        weights=stored,
        activations=quantization.activations,
        group_size=quantization.group_size,
        scales=quantization.scheme.weights.scale,
    )

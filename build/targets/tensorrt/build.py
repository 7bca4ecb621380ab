"""The tensorrt target: the standard network through TensorRT's network API, into plans for GPUs that are elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx_ir as ir

from inflight.build.gpu_kernels.toolchain import triton_version
from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.target import BuildFacts
from inflight.build.targets.tensorrt.api import PagedPlugins
from inflight.build.targets.tensorrt.capabilities import check_capabilities, normalized_sms
from inflight.build.targets.tensorrt.lowering.cache_layout import SLOTS, SPLIT_TOKENS, BlockLayout, CacheLayout
from inflight.build.targets.tensorrt.modules import find_module, find_plugins
from inflight.build.targets.tensorrt.plan.builder import LoweredNetwork, build_plan, lower_model
from inflight.build.targets.tensorrt.plan.listing import network_listing
from inflight.build.targets.tensorrt.plan.weights_file import weights_bytes, write_weights
from inflight.build.targets.tensorrt.precision import check_attention, check_schemes, module_precision, network_needs
from inflight.build.targets.tensorrt.recipe import TensorRtRecipe
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.dtypes import DTYPES, dtype_name
from inflight.engine_format.manifest import Dtype, KvCacheFacts, Limits, MemoryPlan
from inflight.engine_format.tensorrt_facts import DevicePlan, TensorRtFacts, WeightPlace
from inflight.errors import BuildError
from inflight.progress import Advance

WEIGHTS_FILE = "rank0.weights"
LISTING_FILE = "rank0.layers.json"


class TensorRtBuild:
    """A planned build: the network was written once, to know that it can be; no plan is built and no weight is read."""

    def __init__(
        self,
        lower: Callable[[WeightPlace], LoweredNetwork],
        lowered: LoweredNetwork,
        own: TensorRtFacts,
        facts: BuildFacts,
    ) -> None:
        self.facts = facts
        self._own = own
        self._lower = lower
        self._lowered = lowered

    def write(self, directory: Path, advance: Advance) -> None:
        limits = self.facts.recipe.limits
        for plan in self._own.plans:
            lowered = self._lower(plan.weights)
            (directory / plan.file).write_bytes(build_plan(lowered, plan.compute_capabilities, limits, plan.weights))
        if self._own.weights_file is not None:
            write_weights(self._lowered.used, directory / self._own.weights_file, advance)
        listing = network_listing(self._lowered.network)
        (directory / LISTING_FILE).write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


def plan_build(network: ir.Model, checkpoint: Checkpoint, recipe: TensorRtRecipe) -> TensorRtBuild:
    """Raises BuildError when the module is missing, an operator has no lowering, or a GPU lacks what is asked."""
    config = checkpoint.config
    compute, dtype = onnx_dtype(config.dtype), dtype_name(config.dtype)
    _check_recipe(recipe, dtype)
    check_attention(checkpoint)
    check_schemes(checkpoint)
    sms = tuple(recipe.sm) if recipe.full else normalized_sms(recipe.sm)
    check_capabilities(sms, network_needs(network.graph, config), full=recipe.full)
    trt = find_module(recipe.full)
    layout, plugins, prompt_tile = _cache(recipe, config)
    lower = partial(lower_model, trt, network, compute, layout=layout, plugins=plugins)
    place = _weight_place(recipe, compute)
    # Inputs take every weight on every target, so that planning fails for no other reason than the network's.
    lowered = lower("inputs")
    own = TensorRtFacts(
        plans=_plans(sms, place, recipe.portable, prompt_tile), weights_file=None if place == "plan" else WEIGHTS_FILE
    )
    facts = BuildFacts(
        own=own,
        recipe=recipe.model_copy(update={"sm": sms, "weights": place}),
        kv_cache=kv_cache_facts(config, recipe.limits, layout, dtype),
        precision=module_precision(checkpoint, dtype),
        memory=MemoryPlan(
            weights_bytes=weights_bytes(lowered.used), workspace_bytes=_workspace(config, recipe.limits, layout)
        ),
        tools={trt.__name__: str(trt.__version__), **({"triton": triton_version()} if layout.pages else {})},
        listing=LISTING_FILE,
    )
    return TensorRtBuild(lower, lowered, own, facts)


def _check_recipe(recipe: TensorRtRecipe, dtype: Dtype) -> None:
    if recipe.kv_cache_type == "paged":
        _check_paged(recipe, dtype)
    elif "tokens_per_block" in recipe.model_fields_set:
        raise BuildError(
            "--tokens-per-block has no effect here: a continuous cache has a slot of max_seq_len tokens per sequence.",
            "Leave it out, or build with --full --kv-cache-type paged.",
        )
    if recipe.portable and recipe.weights == "refit":
        raise BuildError(
            "A plan for several GPUs cannot leave its weights out to be refitted.",
            "Build with --weights inputs, or without --portable.",
        )
    if recipe.weights == "refit" and dtype == "float32":
        raise BuildError(
            "A float32 network has no fused attention, and TensorRT then cannot leave weights out to be refitted.",
            "Build with --weights inputs.",
        )


def _check_paged(recipe: TensorRtRecipe, dtype: Dtype) -> None:
    if not recipe.full:
        raise BuildError(
            "Paged attention is a plugin, and TensorRT-RTX has none: its network API has no add_plugin.",
            "Leave --kv-cache-type paged out (a sequence then has a slot of max_seq_len tokens), or build with --full "
            "on the GPU's machine, or with --target cpu.",
        )
    if dtype == "float32":
        raise BuildError(
            "The kernels of paged attention read float16 or bfloat16, and the checkpoint is float32.",
            "Convert the model with --dtype float16 or bfloat16, or leave --kv-cache-type paged out.",
        )


def _cache(recipe: TensorRtRecipe, config: CheckpointConfig) -> tuple[CacheLayout, PagedPlugins | None, int]:
    """The layout of the cache; for a paged one also the plugins that read it, and the manifest's prompt_tile."""
    if recipe.kv_cache_type != "paged":
        return SLOTS, None, 0
    plugins = find_plugins()
    # Imports triton, which no other engine of this target needs.
    from inflight.build.targets.tensorrt.plugins.code import prompt_tile

    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_size)
    return BlockLayout(recipe.tokens_per_block), plugins, prompt_tile(*heads, plugins.sm)


def _weight_place(recipe: TensorRtRecipe, compute: ir.DataType) -> WeightPlace:
    """Outside the plan: refitted where TensorRT can, otherwise as inputs."""
    if recipe.weights is not None:
        return recipe.weights
    return "inputs" if recipe.portable or compute == ir.DataType.FLOAT else "refit"


def _plans(sms: tuple[str, ...], place: WeightPlace, portable: bool, prompt_tile: int) -> tuple[DevicePlan, ...]:
    """One plan for each GPU generation, or one for all."""
    groups = [sms] if portable or len(sms) <= 1 else [(sm,) for sm in sms]
    return tuple(
        DevicePlan(
            rank=0,
            file="rank0.engine" if len(groups) == 1 else f"rank0.sm{group[0]}.engine",
            compute_capabilities=group,
            weights=place,
            prompt_tile=prompt_tile,
        )
        for group in groups
    )


def kv_cache_facts(config: CheckpointConfig, limits: Limits, layout: CacheLayout, dtype: Dtype) -> KvCacheFacts:
    size = DTYPES[dtype].bits // 8
    per_token = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_size * size
    tokens = layout.tokens_per_block(limits.max_seq_len)
    return KvCacheFacts(dtype=dtype, tokens_per_block=tokens, bytes_per_block=per_token * tokens, layout=layout.name)


def _workspace(config: CheckpointConfig, limits: Limits, layout: CacheLayout) -> int:
    """An estimate from above of float32 rows, attention and logits; the plan's own figure is known where it runs."""
    heads, size = config.num_attention_heads, config.head_size
    widths = 3 * config.hidden_size + 3 * config.intermediate_size
    widths += 2 * (heads + 2 * config.num_key_value_heads) * size
    attention = limits.max_num_tokens * limits.max_seq_len  # the mask, in bytes
    if layout.pages:
        splits = -(-limits.max_seq_len // SPLIT_TOKENS)
        attention = 4 * math.prod((limits.max_batch_size, heads, splits, size + 2))
    logits = 4 * math.prod((limits.max_logit_rows, config.vocab_size))
    return 4 * limits.max_num_tokens * widths + attention + logits

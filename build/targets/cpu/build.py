"""The cpu target: fused graph, packed weights, and one shared library per CPU level."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from inflight.build.graph.precision import module_precision
from inflight.build.passes.integer_scales import integer_scales
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.build.target import BuildFacts
from inflight.build.targets.cpu.compiler.compile import code_digest, compile_library
from inflight.build.targets.cpu.compiler.cpu_levels import CpuLevel, resolve_levels
from inflight.build.targets.cpu.compiler.toolchain import compiler_version
from inflight.build.targets.cpu.emitter import CSource, emit
from inflight.build.targets.cpu.kv_cache import kv_cache_facts
from inflight.build.targets.cpu.packing.narrow_scales import narrow_scales
from inflight.build.targets.cpu.packing.pack import pack_weights
from inflight.build.targets.cpu.packing.weight_layout import WeightLayout
from inflight.build.targets.cpu.recipe import CpuRecipe
from inflight.convert.checkpoint.cache_factors import cache_factors
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.engine_format.cpu_facts import CpuFacts, Variant
from inflight.engine_format.manifest import MemoryPlan
from inflight.progress import Advance

WEIGHTS_FILE = "rank0.weights"
# Hex digits of a library's digest in its file's name.
_NAMED_DIGITS = 16


class CpuBuild:
    """A planned build: the graph is lowered and the C is written; weights are unread and nothing is compiled."""

    def __init__(
        self,
        source: CSource,
        weights: WeightLayout,
        levels: tuple[CpuLevel, ...],
        own: CpuFacts,
        recipe: CpuRecipe,
        facts: BuildFacts,
    ) -> None:
        self.facts = facts
        self._source = source
        self._weights = weights
        self._levels = levels
        self._own = own
        self._recipe = recipe

    def write(self, directory: Path, advance: Advance) -> None:
        # First: a weight that is no number is said before anything is compiled.
        pack_weights(self._weights, directory / self._own.weights_file, advance)
        for level, variant in zip(self._levels, self._own.variants, strict=True):
            text = f'#define INFLIGHT_BUILD "{variant.digest}"\n{self._source.text}'
            compile_library(text, level, directory / variant.file, cxx=self._recipe.cxx)


def plan_build(network: ir.Model, checkpoint: Checkpoint, recipe: CpuRecipe) -> CpuBuild:
    """Raises BuildError for an unknown level or a shape that no kernel takes."""
    levels = resolve_levels(recipe.cpu)
    kv_dtype = recipe.cache_dtype
    tokens_per_block = recipe.tokens_per_block
    factors = cache_factors(checkpoint) if recipe.kv_cache_dtype == "fp8" else ()
    lowered = lower_for_cpu(
        network, recipe.limits, tokens_per_block=tokens_per_block, kv_dtype=kv_dtype, factors=factors
    )
    graph = lowered.graph
    integer_scales(graph)
    narrow_scales(graph)
    weights = WeightLayout(graph)
    kv_cache = kv_cache_facts(checkpoint.spec, kv_dtype, tokens_per_block)
    source = emit(graph, weights, recipe.limits, kv_cache, pooled=checkpoint.spec.pooled is not None)
    compiler = compiler_version(recipe.cxx)
    variants = tuple(_variant(level, code_digest(source.text, level, compiler)) for level in levels)
    own = CpuFacts(weights_file=WEIGHTS_FILE, variants=variants)
    facts = BuildFacts(
        own=own,
        recipe=recipe.model_copy(update={"cpu": tuple(level.name for level in levels)}),
        kv_cache=kv_cache,
        precision=module_precision(graph),
        memory=MemoryPlan(
            weights_bytes=weights.total_bytes,
            workspace_bytes=source.workspace_bytes,
            lookup_bytes=weights.lookup_bytes,
        ),
        tools={"compiler": compiler},
        matrix_bytes=weights.matrix_bytes,
    )
    return CpuBuild(source, weights, levels, own, recipe, facts)


def _variant(level: CpuLevel, digest: str) -> Variant:
    return Variant(
        rank=0,
        cpu=level.name,
        file=f"rank0.{level.name}.{digest[:_NAMED_DIGITS]}.engine",
        digest=digest,
        triple=level.triple,
        required_features=level.features,
    )

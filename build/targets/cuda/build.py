"""The cuda target: fused graph, a list of launches, compiled kernels for each GPU generation, and plain weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile import Compilation, CompileJob, compiling
from inflight.build.gpu_kernels.toolchain import triton_version
from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.precision import module_precision
from inflight.build.passes.integer_scales import integer_scales
from inflight.build.passes.pack_tokens import LOGIT_ROWS, TOKENS
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.build.passes.plan_memory import plan_memory
from inflight.build.target import BuildFacts
from inflight.build.targets.cuda.emitter import EmittedStep, emit
from inflight.build.targets.cuda.float8_products import settled
from inflight.build.targets.cuda.kv_cache import cache_places
from inflight.build.targets.cuda.operators.experts import set_scratch
from inflight.build.targets.cuda.operators.quantized import mark_early
from inflight.build.targets.cuda.places import Places
from inflight.build.targets.cuda.plain_rows import keep_rows_plain
from inflight.build.targets.cuda.recipe import CudaRecipe
from inflight.build.targets.cuda.short_rows import shorten_rows
from inflight.build.targets.cuda.supported import refuse_unsupported
from inflight.build.targets.cuda.weights import FlatWeights
from inflight.convert.checkpoint.cache_factors import cache_factors
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.engine_format.cuda_facts import KV_LAYOUT, CudaFacts
from inflight.engine_format.gpu_artifact import Artifact
from inflight.engine_format.manifest import KvCacheFacts, MemoryPlan
from inflight.progress import Advance

_FILES = {"weights_file": "rank0.weights", "launches_file": "rank0.launches.json", "kernels_file": "rank0.kernels.json"}


class CudaBuild:
    """A planned build: the launches are listed; weights are unread and nothing is compiled."""

    def __init__(self, step: EmittedStep, weights: FlatWeights, own: CudaFacts, facts: BuildFacts) -> None:
        self.facts = facts
        self._step = step
        self._weights = weights
        self._own = own

    def write(self, directory: Path, advance: Advance) -> None:
        """Kernels are compiled while the weights are written; one that does not compile ends both."""
        with self._compiling() as compilation:

            def checked(amount: float, label: str | None = None) -> None:
                compilation.check()
                advance(amount, label)

            self._weights.write(directory / self._own.weights_file, checked)
            self._write_code(directory, compilation.artifacts())

    def write_code(self, directory: Path) -> None:
        """All but the weights: launches and compiled kernels."""
        with self._compiling() as compilation:
            self._write_code(directory, compilation.artifacts())

    def _compiling(self) -> AbstractContextManager[Compilation]:
        jobs = [CompileJob(*kernel, sm) for kernel in self._step.kernels for sm in self._own.generations]
        return compiling(jobs, cache=ArtifactCache())

    def _write_code(self, directory: Path, artifacts: Sequence[Artifact]) -> None:
        (directory / self._own.launches_file).write_bytes(msgspec.json.encode(self._step.launches) + b"\n")
        compiled: dict[str, list[Any]] = {str(sm): [] for sm in self._own.generations}
        for artifact in artifacts:
            # The PTX is for those who assemble it themselves; an engine is loaded as it is.
            compiled[str(artifact.sm)].append(artifact.model_copy(update={"ptx": ""}).model_dump(mode="json"))
        (directory / self._own.kernels_file).write_bytes(msgspec.json.encode(compiled) + b"\n")


def plan_build(network: ir.Model, checkpoint: Checkpoint, recipe: CudaRecipe) -> CudaBuild:
    """Raises BuildError for what no kernel computes, and where triton is not installed."""
    generations, limits, tokens_per_block = recipe.generations, recipe.limits, recipe.tokens_per_block
    kv_dtype = recipe.cache_dtype
    factors = cache_factors(checkpoint) if recipe.kv_cache_dtype == "fp8" else ()
    lowered = lower_for_cpu(network, limits, tokens_per_block=tokens_per_block, kv_dtype=kv_dtype, factors=factors)
    graph, weights = lowered.graph, FlatWeights()
    refuse_unsupported(graph)
    integer_scales(graph)
    keep_rows_plain(graph, onnx_dtype(checkpoint.config.dtype))
    shorten_rows(graph, onnx_dtype(checkpoint.config.dtype))
    mark_early(graph)
    set_scratch(graph)
    plan_memory(graph, sizes={TOKENS: limits.max_num_tokens, LOGIT_ROWS: limits.max_logit_rows})
    caches, block_bytes = cache_places(graph.inputs)
    places = Places(weights, caches, native_float8=recipe.fp8_products != "widened")
    step = emit(graph, places, limits, tokens_per_block, generations)
    own = CudaFacts(generations=generations, **_FILES)
    facts = BuildFacts(
        own=own,
        recipe=settled(recipe, step.kernels),
        kv_cache=KvCacheFacts(
            dtype=kv_dtype, tokens_per_block=tokens_per_block, bytes_per_block=block_bytes, layout=KV_LAYOUT
        ),
        precision=module_precision(graph),
        memory=MemoryPlan(
            weights_bytes=weights.total_bytes,
            workspace_bytes=step.launches.workspace_bytes,
        ),
        tools={"triton": triton_version()},
    )
    return CudaBuild(step, weights, own, facts)

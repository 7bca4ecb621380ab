"""The cpu target, as the registry knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inflight.build.target import FLOATS, QUANTIZED_CACHES, Capabilities, Target
from inflight.build.targets.cpu.recipe import CpuRecipe
from inflight.extras import install_hint

if TYPE_CHECKING:
    import onnx_ir as ir

    from inflight.build.targets.cpu.build import CpuBuild
    from inflight.convert.checkpoint.directory import Checkpoint


class CpuTarget(Target[CpuRecipe]):
    """Compiled code; see build.py."""

    name = "cpu"
    summary = "compiled C (default)."
    requires = install_hint("build")
    capabilities = Capabilities(kv_cache_dtypes=(*FLOATS, *QUANTIZED_CACHES), pooling=True)

    def recipe_class(self) -> type[CpuRecipe]:
        return CpuRecipe

    def plan(self, network: ir.Model, checkpoint: Checkpoint, recipe: CpuRecipe) -> CpuBuild:
        from inflight.build.targets.cpu.build import plan_build

        return plan_build(network, checkpoint, recipe)

    def identity(self, recipe: CpuRecipe) -> Any:
        """The interface of compiled code, and the levels that the recipe names."""
        from inflight.build.targets.cpu.compiler.cpu_levels import resolve_levels
        from inflight.engine_format.cpu_abi import ABI

        return [ABI, [level.model_dump(mode="json") for level in resolve_levels(recipe.cpu)]]


TARGET = CpuTarget()

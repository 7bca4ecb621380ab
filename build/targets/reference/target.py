"""The reference target, as the registry knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflight.build.target import QUANTIZED_CACHES, Capabilities, Target
from inflight.build.targets.reference.recipe import ReferenceRecipe
from inflight.extras import install_hint

if TYPE_CHECKING:
    import onnx_ir as ir

    from inflight.build.targets.reference.build import ReferenceBuild
    from inflight.convert.checkpoint.directory import Checkpoint


class ReferenceTarget(Target[ReferenceRecipe]):
    """The network as it is; see build.py. Whatever type a checkpoint asks for, its cache is float32, unless the recipe
    asks for the numbers of a quantized one."""

    name = "reference"
    summary = "ONNX Runtime on the unfused network; slow, for checking."
    requires = install_hint("build")
    capabilities = Capabilities(kv_cache_dtypes=("float32", *QUANTIZED_CACHES), pooling=True)

    def recipe_class(self) -> type[ReferenceRecipe]:
        return ReferenceRecipe

    def plan(self, network: ir.Model, checkpoint: Checkpoint, recipe: ReferenceRecipe) -> ReferenceBuild:
        from inflight.build.targets.reference.build import plan_build

        return plan_build(network, checkpoint, recipe)


TARGET = ReferenceTarget()

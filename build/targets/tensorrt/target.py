"""The tensorrt target, as the registry knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflight.build.target import Capabilities, Target
from inflight.build.targets.tensorrt.recipe import TensorRtRecipe
from inflight.extras import install_hint

if TYPE_CHECKING:
    import onnx_ir as ir

    from inflight.build.targets.tensorrt.build import TensorRtBuild
    from inflight.convert.checkpoint.directory import Checkpoint


class TensorRtTarget(Target[TensorRtRecipe]):
    """Plans of TensorRT-RTX or TensorRT; see build.py. Which types a build takes follows from the GPUs that it is for
    (capabilities.py)."""

    name = "tensorrt"
    summary = "plans for NVIDIA GPUs; TensorRT-RTX builds without a GPU."
    requires = install_hint("build,tensorrt-rtx")
    capabilities = Capabilities(kv_cache_dtypes=None, kv_cache_types=("continuous", "paged"))

    def recipe_class(self) -> type[TensorRtRecipe]:
        return TensorRtRecipe

    def plan(self, network: ir.Model, checkpoint: Checkpoint, recipe: TensorRtRecipe) -> TensorRtBuild:
        from inflight.build.targets.tensorrt.build import plan_build

        return plan_build(network, checkpoint, recipe)


TARGET = TensorRtTarget()

"""The cuda target, as the registry knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflight.build.target import FLOATS, Capabilities, Target
from inflight.build.targets.cuda.recipe import CudaRecipe
from inflight.extras import install_hint

if TYPE_CHECKING:
    import onnx_ir as ir

    from inflight.build.targets.cuda.build import CudaBuild
    from inflight.convert.checkpoint.directory import Checkpoint


class CudaTarget(Target[CudaRecipe]):
    """Kernels for NVIDIA GPUs and the list of their launches; see build.py."""

    name = "cuda"
    summary = "kernels for NVIDIA GPUs, compiled without one; no GPU has run them yet."
    requires = install_hint("build,cuda-compile")
    capabilities = Capabilities(kv_cache_dtypes=(*FLOATS, "int8", "fp8"))

    def recipe_class(self) -> type[CudaRecipe]:
        return CudaRecipe

    def plan(self, network: ir.Model, checkpoint: Checkpoint, recipe: CudaRecipe) -> CudaBuild:
        from inflight.build.targets.cuda.build import plan_build

        return plan_build(network, checkpoint, recipe)


TARGET = CudaTarget()

"""The builder's side as `inflight.targets` finds it. Nothing here imports what compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from inflight.build.recipe import BuildRecipe, Flag
from inflight.build.target import Capabilities, Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight_toy.build import ToyBuild


class ToyRecipe(BuildRecipe):
    """scale: what logits are multiplied by."""

    target: ClassVar[str] = "toy"

    scale: Annotated[float, Flag(help="What logits are multiplied by.")] = 1.0


class ToyTarget(Target[ToyRecipe]):
    """See build.py."""

    name = "toy"
    summary = "bigrams in NumPy, of plain float32 checkpoints."
    requires = "pip install inflight-toy"
    capabilities = Capabilities(dtypes=("float32",), kv_cache_dtypes=("float32",), quantization=())

    def recipe_class(self) -> type[ToyRecipe]:
        return ToyRecipe

    def plan(self, network: ir.Model, checkpoint: Checkpoint, recipe: ToyRecipe) -> ToyBuild:
        from inflight_toy.build import ToyBuild

        return ToyBuild(checkpoint, recipe)


TARGET = ToyTarget()

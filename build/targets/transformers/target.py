"""The transformers target, as the registry knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inflight.build.target import Capabilities, ModelShape, ModelTarget
from inflight.build.targets.transformers.recipe import TransformersRecipe
from inflight.extras import install_hint

if TYPE_CHECKING:
    from inflight.build.targets.transformers.build import TransformersBuild
    from inflight.convert.source.opened import SourceModel


class TransformersTarget(ModelTarget[TransformersRecipe]):
    """The model as it is, for transformers to compute; see build.py."""

    name = "transformers"
    summary = (
        "Hugging Face transformers on torch, for models that have no row in docs/families.md; --checkpoint-dir is "
        "the model itself. Slow, and not batch-invariant."
    )
    requires = install_hint("transformers")
    capabilities = Capabilities(kv_cache_dtypes=None)

    def recipe_class(self) -> type[TransformersRecipe]:
        return TransformersRecipe

    def shape_of(self, source: SourceModel, recipe: TransformersRecipe) -> ModelShape:
        from inflight.build.targets.transformers.config import model_shape

        return model_shape(source, recipe.dtype)

    def plan_model(self, source: SourceModel, shape: ModelShape, recipe: TransformersRecipe) -> TransformersBuild:
        from inflight.build.targets.transformers.build import plan_build

        return plan_build(source, shape, recipe)


TARGET = TransformersTarget()

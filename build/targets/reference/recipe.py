"""The recipe of the reference target."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from inflight.build.recipe import BuildRecipe

if TYPE_CHECKING:
    from inflight.convert.checkpoint.config import CheckpointConfig


class ReferenceRecipe(BuildRecipe):
    """It has nothing of its own."""

    target: ClassVar[str] = "reference"

    def resolve(self, config: CheckpointConfig) -> ReferenceRecipe:
        """`auto` is float32, whatever the checkpoint asks for."""
        resolved = super().resolve(config)
        return resolved.model_copy(update={"kv_cache_dtype": "float32"}) if self.kv_cache_dtype == "auto" else resolved

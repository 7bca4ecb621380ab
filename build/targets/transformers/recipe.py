"""The recipe of the transformers target."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from inflight.build.recipe import BuildRecipe, Flag


class TransformersRecipe(BuildRecipe):
    """dtype: of the weights and of all arithmetic; auto: that of config.json."""

    target: ClassVar[str] = "transformers"

    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Flag(help="Data type of the weights and of the arithmetic. auto: that of the model."),
    ] = "auto"

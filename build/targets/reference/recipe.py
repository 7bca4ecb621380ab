"""The recipe of the reference target."""

from __future__ import annotations

from typing import ClassVar

from inflight.build.recipe import BuildRecipe


class ReferenceRecipe(BuildRecipe):
    """It has nothing of its own."""

    target: ClassVar[str] = "reference"

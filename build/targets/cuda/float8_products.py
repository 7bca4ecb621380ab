"""What becomes of the recipe's choice how products of FP8 rows are made, of which the list of kernels tells."""

from __future__ import annotations

from collections.abc import Sequence

from inflight.build.gpu_kernels.architectures import ARCHITECTURES, architecture_of
from inflight.build.gpu_kernels.kernels.quantized_tiles import takes_float8
from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.targets.cuda.recipe import CudaRecipe
from inflight.errors import BuildError


def settled(recipe: CudaRecipe, kernels: Sequence[tuple[KernelSpec, Variant]]) -> CudaRecipe:
    """The recipe with what its engine does, None where nothing is to be chosen.

    Raises BuildError where `--fp8-products` is given and means nothing.
    """
    asked, variants = recipe.fp8_products, [variant for _, variant in kernels]
    able = [one.sm for one in ARCHITECTURES if one.float8_bits]
    if not any(takes_float8(sm, variant) for sm in able for variant in variants):
        if asked is not None:
            raise BuildError(
                f"--fp8-products {asked}: no product of this checkpoint has FP8 rows and weights that FP8 holds.",
                "Leave the option out, or quantize the model: inflight convert --quantize fp8.",
            )
        return recipe
    if not any(architecture_of(sm).float8_bits for sm in recipe.generations):
        if asked == "native":
            raise BuildError(
                f"--fp8-products native: tensor cores of --sm {','.join(recipe.sm)} multiply no FP8, those of "
                f"{', '.join(map(str, able))} do.",
                "Leave the option out: the products are then made of 16 bits.",
            )
        return recipe.model_copy(update={"fp8_products": "widened"})
    return recipe.model_copy(update={"fp8_products": asked or "native"})

"""The recipe of the cuda target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.build.recipe import BuildRecipe, Flag
from inflight.errors import BuildError

if TYPE_CHECKING:
    from inflight.convert.checkpoint.config import CheckpointConfig

Fp8Products = Literal["native", "widened"]


class CudaRecipe(BuildRecipe):
    """sm: GPU generations; the engine holds code for each. fp8_products None: native where a product and a generation
    have it; in a manifest, where no product has the choice."""

    target: ClassVar[str] = "cuda"

    sm: Annotated[
        tuple[str, ...],
        Flag(help="GPU generations to hold code for: 80 (A100), 86, 89 (L40S), 90 (H100, H200), 100 (B200), 120."),
    ] = ("90",)
    fp8_products: Annotated[
        Fp8Products | None,
        Flag(
            help="How FP8 weights are multiplied with FP8 activations. native, the default: in FP8, at twice the rate, "
            "on GPUs that have it (--sm 89, 90, 100, 120); those of 89 and 90 keep 14 bits of a sum, so every 128 "
            "inputs it is added to one in float32. widened: in 16 bits with float32 sums, as other targets compute, "
            "and as --sm 80 and 86 always do."
        ),
    ] = None

    def resolve(self, config: CheckpointConfig) -> CudaRecipe:
        """Also checks the generations, which are kept in order and once each."""
        resolved = super().resolve(config)
        return resolved.model_copy(update={"sm": tuple(str(sm) for sm in self.generations)})

    @property
    def generations(self) -> tuple[int, ...]:
        """Raises BuildError for one that kernels are not compiled for."""
        wrong = [name for name in self.sm if not name.removeprefix("sm_").isdigit()]
        if wrong:
            raise BuildError(f"--sm {wrong[0]}: a GPU generation is a number, as in --sm 90.")
        return tuple(sorted({architecture_of(int(name.removeprefix("sm_"))).sm for name in self.sm}))

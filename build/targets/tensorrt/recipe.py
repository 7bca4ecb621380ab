"""The recipe of the tensorrt target."""

from __future__ import annotations

from typing import Annotated, ClassVar

from inflight.build.recipe import BuildRecipe, Flag
from inflight.engine_format.tensorrt_facts import WeightPlace


class TensorRtRecipe(BuildRecipe):
    """sm: GPU generations ("89"). full: full TensorRT in place of TensorRT-RTX. portable: one plan for all generations.
    weights: where they are. kv_cache_type None: a sequence's cache is one piece."""

    target: ClassVar[str] = "tensorrt"

    sm: Annotated[
        tuple[str, ...],
        Flag(help="GPU generations, repeated or with commas: 75, 80, 86, 89, 120, 121. Default: 86, 89, 120."),
    ] = ()
    full: Annotated[
        bool,
        Flag(
            help="Full TensorRT, built on the GPU's machine (--kv-cache-type paged needs it), or TensorRT-RTX.",
            off="--rtx",
        ),
    ] = False
    portable: Annotated[bool, Flag(help="One plan for all of --sm instead of one for each.")] = False
    weights: Annotated[
        WeightPlace | None,
        Flag(help="Place of the weights. refit and inputs: in a file beside the plan; plan: inside it."),
    ] = None

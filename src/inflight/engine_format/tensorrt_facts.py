"""What the manifest of a tensorrt engine says beside the common facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from inflight.engine_format.manifest import Facts
from inflight.engine_format.target_facts import TargetFacts

WeightPlace = Literal["refit", "inputs", "plan"]

# The layout of the caches of each layer, one of keys and one of values. A slot is a sequence's whole cache.
SLOTS = "slots, heads, tokens, head_size"
# The same of a pool of blocks, which block tables list.
BLOCKS = "blocks, heads, tokens, head_size"


class DevicePlan(Facts, frozen=True, kw_only=True):
    """One compiled plan of a rank for GPUs of these compute capabilities ("89"); none: the GPU that built it.

    weights: put into the plan when it is loaded (refit), bound beside the activations (inputs), or in the plan already.
    prompt_tile: where the cache is paged, the most tokens of a prompt that one program of attention takes.
    """

    rank: int
    file: str
    compute_capabilities: tuple[str, ...]
    weights: WeightPlace
    prompt_tile: int = 0


class TensorRtFacts(TargetFacts, frozen=True, kw_only=True):
    """weights_file: a safetensors file beside the plans; None: every plan holds its weights."""

    interface: ClassVar[int] = 2

    plans: tuple[DevicePlan, ...]
    weights_file: str | None = None

    def loaded_files(self) -> Iterable[str]:
        beside = () if self.weights_file is None else (self.weights_file,)
        return *beside, *(plan.file for plan in self.plans)

    def code_for(self) -> Sequence[str]:
        return [f"SM{sm}" for plan in self.plans for sm in plan.compute_capabilities or ("of this machine",)]

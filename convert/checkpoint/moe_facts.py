"""The `moe` block of a checkpoint's config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from inflight.convert.checkpoint.model_spec import SCORED_BY, Routing

# The format's numbers of normalization_mode.
ROUTINGS: Mapping[int, Routing] = {0: "softmax", 1: "renormalized", 2: "sparse_mixer"}
RENORMALIZE = 1
_MIXER: Routing = "sparse_mixer"
MOST_EXPERTS = 1 << 12
SPARSE_MIXER_EXPERTS = 2


class MoeFacts(BaseModel):
    """Of every layer with experts; `num_experts` 0: there are none. The format's other keys are about ranks.

    It has none for routers whose bias counts in the choice alone, nor for groups of experts, nor for those whose
    weights multiply the rows that experts meet (`weighs_inputs`): `biased_scores` and those behind it are ours.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    num_experts: Annotated[int, Field(ge=0, le=MOST_EXPERTS)] = 0
    top_k: Annotated[int, Field(ge=0, le=MOST_EXPERTS)] = 0
    normalization_mode: int = RENORMALIZE
    sparse_mixer_epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    shared_expert_intermediate_size: int = 0
    biased_scores: Literal["softmax", "sigmoid"] | None = None
    least_sum: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    routed_scaling_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    num_groups: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] = 1
    top_groups: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] = 1
    weighs_inputs: bool = False

    @property
    def routing(self) -> Routing:
        if self.weighs_inputs:
            return "sigmoid_inputs"
        if self.biased_scores is not None:
            return "biased_softmax" if self.biased_scores == "softmax" else "biased_sigmoid"
        return ROUTINGS[self.normalization_mode]

    @property
    def epsilon(self) -> float:
        """Of ExpertsSpec."""
        return self.least_sum if self.biased_scores else self.sparse_mixer_epsilon if self.routing == _MIXER else 0.0

    def problems(self) -> Iterator[str]:
        """What of it cannot be expressed, a phrase each."""
        if not self.num_experts:
            return
        if not 1 <= self.top_k <= self.num_experts:
            yield f"moe.top_k {self.top_k} of {self.num_experts} experts"
        if self.normalization_mode not in ROUTINGS:
            yield f"moe.normalization_mode {self.normalization_mode} (experts in groups; supported: 0, 1, 2)"
        elif self.routing == "sparse_mixer" and (self.top_k != SPARSE_MIXER_EXPERTS or self.num_experts < 2):
            yield f"a sparse mixer of {self.top_k} of {self.num_experts} experts (it chooses two)"
        else:
            yield from self._group_problems()

    def _group_problems(self) -> Iterator[str]:
        scaled = self.biased_scores is not None or self.routing == "softmax"
        if self.routed_scaling_factor != 1.0 and not scaled:
            yield f"moe.routed_scaling_factor {self.routed_scaling_factor:g} of {self.routing} weights"
        if self.num_groups == 1:
            return
        size, rest = divmod(self.num_experts, self.num_groups)
        if not scaled or rest:
            yield f"{self.num_experts} experts of {self.routing} weights in {self.num_groups} groups"
        elif self.top_groups > self.num_groups or self.top_k > self.top_groups * size:
            yield f"{self.top_k} experts of {self.top_groups} of {self.num_groups} groups of {size}"
        elif self.biased_scores is not None and size < SCORED_BY:
            yield f"groups of {size} experts, whose {SCORED_BY} greatest scores count"

    def to_json(self) -> dict[str, Any]:
        """The keys that say something."""
        left_out = {"shared_expert_intermediate_size"}
        left_out |= set() if self.normalization_mode == 2 else {"sparse_mixer_epsilon"}
        left_out |= set() if self.biased_scores else {"biased_scores", "least_sum"}
        left_out |= set() if self.biased_scores or self.routed_scaling_factor != 1 else {"routed_scaling_factor"}
        left_out |= set() if self.weighs_inputs else {"weighs_inputs"}
        left_out |= set() if self.num_groups > 1 else {"num_groups", "top_groups"}
        return self.model_dump(mode="json", exclude=left_out)

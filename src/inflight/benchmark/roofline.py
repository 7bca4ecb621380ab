"""The least time that the machine's limits allow for the work of a step.

The model is the roofline of Williams, Waterman and Patterson (2009): operations at the arithmetic peak, bytes at the
bandwidth, and whichever takes longer is the bound. Attention's own arithmetic is not counted. The bandwidth is that of
the caches where they can keep the weights from one step to the next (machine_limits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inflight.benchmark.machine_limits import MachineLimits
from inflight.engine_format.manifest import EngineManifest

BoundBy = Literal["memory", "arithmetic"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds, and which of the two limits they come from."""

    seconds: float
    by: BoundBy


class Roofline:
    """Bounds of one engine on one machine."""

    def __init__(self, manifest: EngineManifest, limits: MachineLimits) -> None:
        self._work = manifest.work
        types = {module.activations for module in manifest.precision.values()} or {manifest.model.dtype}
        # A model of several types is held to the fastest of them: a bound must not be above what is possible.
        self._peak = max(limits.peak(dtype) for dtype in types)
        self._read = limits.read

    def step(self, tokens: int, logit_rows: int, cached_tokens: int) -> Bound:
        """A step of `tokens` rows, `logit_rows` of them up to the vocabulary, reading `cached_tokens` of the cache."""
        work = self._work
        operations = tokens * work.layer_flops_per_token + logit_rows * work.logits_flops_per_row
        moved = work.weight_bytes_per_step + cached_tokens * work.kv_bytes_per_token
        arithmetic, memory = operations / self._peak, moved / self._read
        return Bound(arithmetic, "arithmetic") if arithmetic > memory else Bound(memory, "memory")

"""Sums over steps: prefill and decode of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inflight.benchmark.distribution import mean, percentile
from inflight.benchmark.limit_checks import Share
from inflight.benchmark.machine_limits import MachineLimits
from inflight.benchmark.offline.steps import Step
from inflight.benchmark.roofline import Roofline


@dataclass(frozen=True, slots=True)
class Phase:
    """`tokens` of prompt or output came of `steps`. `bound_seconds`: the least time that the machine's limits allow for
    all the steps, None where the limits are unknown."""

    tokens: int
    steps: Sequence[Step]
    bound_seconds: float | None
    bound_by: str | None

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.steps else float("nan")

    @property
    def share_of_limit(self) -> float | None:
        """1 when the machine could not be faster."""
        return None if self.bound_seconds is None or not self.steps else self.bound_seconds / self.seconds

    @property
    def python_seconds(self) -> float:
        """Of one step, on average: what is not the executor's."""
        return mean([step.seconds - step.executor_seconds for step in self.steps])

    def as_dict(self) -> dict[str, Any]:
        milliseconds = [1e3 * step.seconds for step in self.steps]
        return {
            "tokens": self.tokens,
            "steps": len(self.steps),
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "mean_step_ms": mean(milliseconds),
            "p50_step_ms": percentile(milliseconds, 50),
            "p99_step_ms": percentile(milliseconds, 99),
            "python_step_ms": 1e3 * self.python_seconds,
            "bound_seconds": self.bound_seconds,
            "bound_by": self.bound_by,
            "share_of_limit": self.share_of_limit,
        }


def split_phases(steps: Sequence[Step], num_prompt_tokens: int, roofline: Roofline | None) -> tuple[Phase, Phase]:
    """Prefill and decode. A step that has both, because the prompts do not fit one step, belongs to the prefill; the
    tokens it decodes are in its bound and not in the phase's tokens."""
    decodes = [step for step in steps if step.is_decode]
    prefills = [step for step in steps if not step.is_decode]
    decoded = sum(step.logit_rows for step in decodes)
    return _phase(num_prompt_tokens, prefills, roofline), _phase(decoded, decodes, roofline)


def _phase(tokens: int, steps: Sequence[Step], roofline: Roofline | None) -> Phase:
    if roofline is None or not steps:
        return Phase(tokens, steps, None, None)
    bounds = [roofline.step(step.tokens, step.logit_rows, step.cached_tokens) for step in steps]
    by, _ = Counter(bound.by for bound in bounds).most_common(1)[0]
    return Phase(tokens, steps, sum(bound.seconds for bound in bounds), by)


def phase_shares(phases: Mapping[str, Phase], limits: MachineLimits, after: str = "") -> list[Share]:
    """The shares of named phases; `after` says of what they are."""
    words = {
        "memory": f"reading {limits.read / 1e9:.1f} GB/s",
        "arithmetic": f"the arithmetic peak ({limits.peaks_text})",
    }
    return [
        Share(f"{name}{after}", phase.share_of_limit, words[phase.bound_by])
        for name, phase in phases.items()
        if phase.share_of_limit is not None and phase.bound_by is not None
    ]

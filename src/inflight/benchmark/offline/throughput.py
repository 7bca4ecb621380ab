"""Many prompts at once, for throughput: the measurement of `vllm bench throughput`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inflight.benchmark.limit_checks import Share
from inflight.benchmark.machine_limits import MachineLimits
from inflight.benchmark.offline.phases import Phase, phase_shares, split_phases
from inflight.benchmark.offline.steps import Step
from inflight.benchmark.roofline import Roofline


@dataclass(frozen=True, slots=True)
class ThroughputResult:
    """`elapsed` in seconds, from the first step to the last token of all requests."""

    num_requests: int
    prompt_tokens: int
    output_tokens: int
    elapsed: float
    prefill: Phase
    decode: Phase

    @property
    def share_of_limit(self) -> float | None:
        bounds = [phase.bound_seconds for phase in (self.prefill, self.decode) if phase.steps]
        known = [bound for bound in bounds if bound is not None]
        return sum(known) / self.elapsed if len(known) == len(bounds) else None

    def shares(self, limits: MachineLimits) -> list[Share]:
        """Of each phase that has steps."""
        return phase_shares({"prefill": self.prefill, "decode": self.decode}, limits)

    def as_dict(self) -> dict[str, Any]:
        """The fields of `vllm bench throughput`, and the phases."""
        total = self.prompt_tokens + self.output_tokens
        return {
            "elapsed_time": self.elapsed,
            "num_requests": self.num_requests,
            "total_num_tokens": total,
            "requests_per_second": self.num_requests / self.elapsed,
            "tokens_per_second": total / self.elapsed,
            "output_tokens_per_second": self.output_tokens / self.elapsed,
            "share_of_limit": self.share_of_limit,
            "prefill": self.prefill.as_dict(),
            "decode": self.decode.as_dict(),
        }


def summarize_throughput(
    steps: Sequence[Step], num_requests: int, prompt_tokens: int, roofline: Roofline | None
) -> ThroughputResult:
    """The steps of one run of `num_requests` prompts with `prompt_tokens` tokens in all."""
    prefill, decode = split_phases(steps, prompt_tokens, roofline)
    return ThroughputResult(
        num_requests=num_requests,
        prompt_tokens=prompt_tokens,
        output_tokens=sum(step.logit_rows for step in steps),
        elapsed=sum(step.seconds for step in steps),
        prefill=prefill,
        decode=decode,
    )

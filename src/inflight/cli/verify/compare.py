"""How far an engine may be from transformers, for `inflight verify`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.cli.verify.engine import EngineRun

Array = npt.NDArray[Any]
FLOAT32_TOLERANCE = 1e-4
# An engine of a shorter type may lose this much more than transformers itself loses in that type.
SHORT_TYPE_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt: `error` is |engine - reference| / |reference| over all logits, `allowed` its limit. Of `new_tokens`
    greedy tokens `same` are the reference's own choice; at `ties` its choice leads by less than the allowed error.

    Where a router `hesitates`, over so many tokens of the prompt and behind it, both errors are those of the usual
    token (their median), since these tokens may meet other experts in any engine; and `excused` new tokens differ at
    such a one, or behind one.
    """

    prompt: str
    prompt_tokens: int
    new_tokens: int
    same: int
    ties: int
    hesitates: int
    excused: int
    error: float
    allowed: float
    largest_difference: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed and self.same + self.ties + self.excused == self.new_tokens

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def relative_error(found: Array, expected: Array) -> float:
    """Euclidean norm of the difference over that of `expected`; infinite when `found` holds no numbers."""
    difference = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
    error = float(np.linalg.norm(difference) / max(float(np.linalg.norm(expected)), 1e-30))
    return error if np.isfinite(error) else float("inf")


def usual_error(found: Array, expected: Array) -> float:
    """The median of the relative errors of the rows."""
    return float(np.median([relative_error(one, other) for one, other in zip(found, expected, strict=True)]))


def compare(prompt: str, run: EngineRun, reference: Array, same_type: Array, hesitates: Array) -> Comparison:
    """Compare a run with the reference's float32 logits for its tokens, and with transformers' own logits in the
    engine's type, all [len(run.token_ids) - 1, vocab]. `hesitates` bool: the tokens about which a router does.
    """
    slack = FLOAT32_TOLERANCE * np.abs(reference).max() + SHORT_TYPE_FACTOR * np.abs(same_type - reference).max()
    generated = np.arange(run.prompt_length - 1, len(run.token_ids) - 1)
    chosen = np.array(run.token_ids)[generated + 1]
    gaps = reference[generated].max(axis=-1) - reference[generated, chosen]
    unsteady = np.logical_or.accumulate(hesitates)[generated]
    error_of = usual_error if hesitates.any() else relative_error
    return Comparison(
        prompt=prompt,
        prompt_tokens=run.prompt_length,
        new_tokens=len(generated),
        same=int((gaps == 0).sum()),
        ties=int(((gaps > 0) & (gaps <= 2 * slack)).sum()),
        hesitates=int(hesitates.sum()),
        excused=int(((gaps > 2 * slack) & unsteady).sum()),
        error=error_of(run.logits, reference),
        allowed=FLOAT32_TOLERANCE + SHORT_TYPE_FACTOR * error_of(same_type, reference),
        largest_difference=float(np.abs(run.logits - reference).max()),
    )

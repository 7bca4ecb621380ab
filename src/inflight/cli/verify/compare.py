"""How far an engine may be from transformers, for `inflight verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.cli.verify.engine import EngineRun
from inflight.cli.verify.routing import before_first

Array = npt.NDArray[Any]
FLOAT32_TOLERANCE = 1e-4
# An engine of a shorter type may lose this much more than transformers itself loses in that type, over all texts.
SHORT_TYPE_FACTOR = 1.5
# Of one text alone: the loss of a short one is by chance up to half as large again, for either.
ONE_TEXT_FACTOR = 2.25
# So many tokens before the first about which a router hesitates say that the others differ by their routing alone.
ENOUGH_STEADY = 16


class Rows(NamedTuple):
    """What was found after the tokens of one text: logits [tokens, vocab] of the engine, of the reference in float32
    and in the engine's type, and bool [tokens], where a router `hesitates`.
    """

    engine: Array
    reference: Array
    same_type: Array
    hesitates: Array


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt: `error` is |engine - reference| / |reference| over all its logits, `allowed` its limit. Of
    `new_tokens` greedy tokens `same` are the reference's own choice; at `ties` its choice leads by less than the
    allowed error.

    Where a router `hesitates`, over so many tokens of the prompt and behind it, both errors are those of the tokens
    before the first such one, and all texts together judge; `excused` new tokens differ at such a one, or behind one.
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
    def share(self) -> float:
        """Of the allowed error."""
        return self.error / self.allowed

    @property
    def passed(self) -> bool:
        near = self.hesitates > 0 or self.error <= self.allowed
        return near and self.same + self.ties + self.excused == self.new_tokens

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, slots=True)
class OverallComparison:
    """All texts together: `error`, `allowed` and transformers' `own` error in the engine's type, over all logits of
    `tokens`, which are those of every text before the first one about which a router hesitates.
    """

    texts: int
    tokens: int
    own: float
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed

    @property
    def enough(self) -> bool:
        """Whether the tokens are so many that a wrong engine shows in them."""
        return self.tokens >= ENOUGH_STEADY

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, slots=True)
class RoutedComparison:
    """All `tokens` of all texts, if a router of a mixture of experts hesitates about one of them.

    Some met other experts in the engine, and some in transformers, not the same ones. So the errors of all tokens are
    compared as two heaps: the engine's median with the upper quartile of transformers' own errors, and its lower
    quartile with their median. `error` and `allowed` are those of the worse pair.
    """

    tokens: int
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def relative_error(found: Array, expected: Array) -> float:
    """Euclidean norm of the difference over that of `expected`; infinite when `found` holds no numbers."""
    difference = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
    error = float(np.linalg.norm(difference) / max(float(np.linalg.norm(expected)), 1e-30))
    return error if np.isfinite(error) else float("inf")


def compare_all(texts: Sequence[Rows]) -> OverallComparison:
    """Compare all texts together: over one short text, transformers' own error varies too much to be a strict limit."""
    engine, reference, same_type = _joined(texts)
    steady = _steady(texts)
    own = relative_error(same_type[steady], reference[steady])
    return OverallComparison(
        texts=len(texts),
        tokens=int(steady.sum()),
        own=own,
        error=relative_error(engine[steady], reference[steady]),
        allowed=_allowed(own),
    )


def compare(prompt: str, run: EngineRun, rows: Rows, own: float) -> Comparison:
    """Compare a run with what the reference says about its tokens but the last. own: that of OverallComparison."""
    _, reference, same_type, hesitates = rows
    steady = before_first(hesitates)
    expected, rounded = reference[steady], same_type[steady]
    slack = FLOAT32_TOLERANCE * _greatest(expected) + SHORT_TYPE_FACTOR * _greatest(rounded - expected)
    generated = np.arange(run.prompt_length - 1, len(run.token_ids) - 1)
    chosen = np.array(run.token_ids)[generated + 1]
    gaps = reference[generated].max(axis=-1) - reference[generated, chosen]
    return Comparison(
        prompt=prompt,
        prompt_tokens=run.prompt_length,
        new_tokens=len(generated),
        same=int((gaps == 0).sum()),
        ties=int(((gaps > 0) & (gaps <= 2 * slack)).sum()),
        hesitates=int(hesitates.sum()),
        excused=int(((gaps > 2 * slack) & ~steady[generated]).sum()),
        error=relative_error(run.logits[steady], expected),
        allowed=_allowed(max(own, relative_error(rounded, expected)), ONE_TEXT_FACTOR),
        largest_difference=_greatest(run.logits - reference),
    )


def compare_routed(texts: Sequence[Rows]) -> RoutedComparison | None:
    """None where no router hesitates about any token."""
    if _steady(texts).all():
        return None
    engine, reference, same_type = _joined(texts)
    ours, theirs = (
        [relative_error(one, other) for one, other in zip(found, reference, strict=True)]
        for found in (engine, same_type)
    )
    usual = ((np.quantile(ours, part), _allowed(float(np.quantile(theirs, part + 0.25)))) for part in (0.25, 0.5))
    error, allowed = max(usual, key=lambda pair: pair[0] / pair[1])
    return RoutedComparison(tokens=len(engine), error=float(error), allowed=allowed)


def _joined(texts: Sequence[Rows]) -> tuple[Array, Array, Array]:
    """Logits [tokens of all texts, vocab] of the engine, of the reference, and of that in the engine's type."""
    engine, reference, same_type = (np.concatenate([text[part] for text in texts]) for part in range(3))
    return engine, reference, same_type


def _steady(texts: Sequence[Rows]) -> Array:
    return np.concatenate([before_first(text.hesitates) for text in texts])


def _allowed(own: float, factor: float = SHORT_TYPE_FACTOR) -> float:
    return FLOAT32_TOLERANCE + factor * own


def _greatest(numbers: Array) -> float:
    return float(np.abs(numbers).max(initial=0.0))

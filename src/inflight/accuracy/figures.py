"""From the logits of windows to figures with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inflight.accuracy.record import Figure
from inflight.errors import EngineError

Logits = npt.NDArray[np.float32]
_MOST = math.log(1e300)
_Doubles = npt.NDArray[np.float64]


@dataclass(slots=True)
class WindowSums:
    """Sums over the scored tokens of one window: minus the log probability of the text's own tokens, by the engine and
    by the reference; the KL divergence in nats of the engine's distribution from the reference's (over the whole
    vocabulary, KL(reference || engine)); and how often both have the same most likely token.
    """

    tokens: int = 0
    loss: float = 0.0
    reference_loss: float = 0.0
    divergence: float = 0.0
    same: int = 0

    def add(self, targets: Sequence[int], logits: Logits, reference: Logits | None = None) -> None:
        """targets: the text's next token after each row. logits, reference: [rows, vocab_size]. Raises EngineError
        where logits hold no numbers."""
        rows = np.arange(len(targets))
        mine = _log_probabilities(logits)
        self.tokens += len(targets)
        self.loss -= float(mine[rows, targets].sum())
        if reference is None:
            return
        theirs = _log_probabilities(reference)
        self.reference_loss -= float(theirs[rows, targets].sum())
        self.divergence += float((np.exp(theirs) * (theirs - mine)).sum())
        self.same += int((logits.argmax(axis=-1) == reference.argmax(axis=-1)).sum())


@dataclass(slots=True)
class TextFigures:
    """Collects windows; `figures` has what is known after them."""

    compared: bool
    windows: list[WindowSums] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(window.tokens for window in self.windows)

    def figures(self) -> dict[str, Figure]:
        """`ppl`; where there is a reference also its perplexity, the ratio of both, `kl` and `top1`. Errors are
        standard errors over windows, None where there is one window."""
        loss = [window.loss for window in self.windows]
        found = {"ppl": _exponential(*self._mean(loss))}
        if not self.compared:
            return found
        reference = [window.reference_loss for window in self.windows]
        more = [mine - theirs for mine, theirs in zip(loss, reference, strict=True)]
        return found | {
            "ppl_reference": _exponential(*self._mean(reference)),
            "ppl_ratio": _exponential(*self._mean(more)),
            "kl": Figure.of(*self._mean([window.divergence for window in self.windows])),
            "top1": Figure.of(*self._mean([window.same for window in self.windows])),
        }

    def _mean(self, sums: Sequence[float]) -> tuple[float, float | None]:
        """The mean per token of sums of windows, and its standard error as an estimate of a ratio."""
        counts = [window.tokens for window in self.windows]
        total, number = sum(counts), len(counts)
        mean = math.fsum(sums) / total
        if number < 2:
            return mean, None
        squares = math.fsum((each - mean * count) ** 2 for each, count in zip(sums, counts, strict=True))
        return mean, math.sqrt(squares * number / (number - 1)) / total


def share(right: Sequence[bool]) -> Figure:
    """A proportion with its standard error."""
    mean = sum(right) / len(right)
    return Figure.of(mean, math.sqrt(mean * (1 - mean) / len(right)))


def _exponential(mean: float, error: float | None) -> Figure:
    """exp(mean), with the error to first order. What no float could hold is 1e300, which JSON can hold as well."""
    value = math.exp(min(mean, _MOST))
    return Figure.of(value, None if error is None else min(value * error, 1e300))


def _log_probabilities(logits: Logits) -> _Doubles:
    wide = logits.astype(np.float64)
    if not np.isfinite(wide).all():
        raise EngineError("The engine's logits are not all numbers.", "Find where that begins: inflight verify")
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide

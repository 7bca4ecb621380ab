"""Figures of windows, against torch and against resampled windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from inflight.accuracy.figures import TextFigures, WindowSums, share
from inflight.errors import EngineError

pytestmark = pytest.mark.unit


def random_logits(rng: np.random.Generator, rows: int, vocab_size: int) -> npt.NDArray[np.float32]:
    return (rng.normal(size=(rows, vocab_size)) * rng.uniform(0.1, 20)).astype(np.float32)


def test_the_figures_are_those_of_torch(rng: np.random.Generator) -> None:
    vocab_size, found = int(rng.integers(2, 300)), TextFigures(compared=True)
    kept = []
    for _ in range(int(rng.integers(1, 5))):
        window = WindowSums()
        for rows in rng.integers(1, 9, size=3).tolist():
            theirs = random_logits(rng, rows, vocab_size)
            mine = theirs + random_logits(rng, rows, vocab_size) * 0.1
            targets = rng.integers(vocab_size, size=rows)
            window.add(targets.tolist(), mine, theirs)
            kept.append((torch.from_numpy(mine).double(), torch.from_numpy(theirs).double(), torch.from_numpy(targets)))
        found.windows.append(window)
    mine, theirs, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
    own, other = F.cross_entropy(mine, targets), F.cross_entropy(theirs, targets)
    kl = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")
    same = (mine.argmax(-1) == theirs.argmax(-1)).double().mean()
    expected = {
        "ppl": own.exp(),
        "ppl_reference": other.exp(),
        "ppl_ratio": (own - other).exp(),
        "kl": kl,
        "top1": same,
    }
    figures = found.figures()
    assert found.tokens == len(targets)
    assert {name: figure.value for name, figure in figures.items()} == {
        name: pytest.approx(float(value), rel=1e-5, abs=1e-9) for name, value in expected.items()
    }


def test_the_error_is_that_of_the_mean_of_windows(rng: np.random.Generator) -> None:
    losses = rng.normal(3, 0.2, size=int(rng.integers(2, 40)))
    windows = [WindowSums(tokens=10, loss=10 * loss, divergence=10 * loss) for loss in losses]
    kl = TextFigures(compared=True, windows=windows).figures()["kl"]
    assert kl.error == pytest.approx(losses.std(ddof=1) / len(losses) ** 0.5, rel=1e-5)


def test_the_error_of_the_ratio_is_that_of_the_paired_difference(rng: np.random.Generator) -> None:
    """Windows differ far more from each other than both engines do."""
    losses, less = rng.normal(3, 1, size=20), rng.normal(0.01, 0.001, size=20)
    windows = [WindowSums(10, 10 * (loss + one), 10 * loss) for loss, one in zip(losses, less, strict=True)]
    figures = TextFigures(compared=True, windows=windows).figures()
    ratio = figures["ppl_ratio"]
    assert ratio.error == pytest.approx(ratio.value * less.std(ddof=1) / 20**0.5, rel=1e-4)
    assert figures["ppl"].error is not None and ratio.error is not None
    assert figures["ppl"].error > 100 * ratio.error


def test_one_window_has_no_error() -> None:
    figures = TextFigures(compared=True, windows=[WindowSums(4, 8.0, 4.0, 1.0, 3)]).figures()
    assert figures["kl"].value == 0.25 and figures["kl"].error is None


def test_a_hopeless_perplexity_is_a_number() -> None:
    assert TextFigures(compared=False, windows=[WindowSums(1, 1e6)]).figures()["ppl"].value == pytest.approx(1e300)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_named(rng: np.random.Generator, bad: float) -> None:
    logits = random_logits(rng, 3, 7)
    logits[1, 2] = bad
    with pytest.raises(EngineError, match="not all numbers"):
        WindowSums().add([1, 2, 3], logits)


def test_a_share_has_the_error_of_a_proportion() -> None:
    figure = share([True, True, True, False])
    assert figure.value == 0.75 and figure.error == pytest.approx((0.75 * 0.25 / 4) ** 0.5, rel=1e-5)

"""The rules by which `select` decides, on scores that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inflight.lang import greedy_token_selection, token_length_normalized, unconditional_likelihood_normalized
from inflight.lang.choices import ChoicesSamplingMethod, mean_logprob

pytestmark = pytest.mark.unit


def decide(
    method: ChoicesSamplingMethod, rows: list[list[float]], alone: list[list[float | None]] | None = None
) -> str:
    choices = [f"choice {index}" for index in range(len(rows))]
    tokens: list[list[Any]] = [[(value, 0, "x") for value in row] for row in rows]
    unconditional: list[list[Any]] | None = None
    if alone is not None:
        unconditional = [[(value, 0, "x") for value in row] for row in alone]
    decision = method(
        choices=choices,
        normalized_prompt_logprobs=[mean_logprob(each) for each in tokens],
        input_token_logprobs=tokens,
        output_token_logprobs=[[] for _ in rows],
        unconditional_token_logprobs=unconditional,
    )
    assert decision.meta_info is not None and decision.meta_info["input_token_logprobs"] == tokens
    return decision.decision


def test_the_mean_of_a_token_decides(rng: np.random.Generator) -> None:
    for _ in range(50):
        rows = [rng.normal(-3, 2, int(rng.integers(1, 6))).tolist() for _ in range(int(rng.integers(1, 6)))]
        assert decide(token_length_normalized, rows) == f"choice {np.argmax([np.mean(row) for row in rows])}"


def test_greedy_goes_token_by_token_and_lengthens_what_has_ended() -> None:
    # The likeliest first token wins, however unlikely what follows.
    assert decide(greedy_token_selection, [[-1.0, -9.0], [-2.0, -0.1]]) == "choice 0"
    # The first two begin alike; the shorter one goes on with its mean, -1.5.
    assert decide(greedy_token_selection, [[-1.0, -2.0], [-1.0, -2.0, -1.0], [-3.0]]) == "choice 1"
    assert decide(greedy_token_selection, [[-1.0, -2.0], [-1.0, -2.0, -1.6], [-3.0]]) == "choice 0"


def test_what_gains_most_from_its_place_decides() -> None:
    rows, alone = [[-1.0, -1.0], [-4.0, -2.0]], [[None, -1.0], [None, -9.0]]
    assert decide(token_length_normalized, rows) == "choice 0"
    assert decide(unconditional_likelihood_normalized, rows, alone) == "choice 1"

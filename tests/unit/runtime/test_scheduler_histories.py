"""Whatever happens around it, a request is answered once, as if it were alone, and leaves nothing behind."""

from __future__ import annotations

import random

import pytest

from tests.unit.runtime.scheduler_histories import History

pytestmark = pytest.mark.unit


def _play(seed: int, count: int) -> None:
    seeds = random.Random(seed)
    for _ in range(count):
        history_seed = seeds.getrandbits(63)
        try:
            History(history_seed).run()
        except Exception as error:
            raise AssertionError(f"History({history_seed}).run() fails: {error}") from error


def test_every_request_is_answered_once_as_if_alone_and_idle_means_free(seed: int) -> None:
    _play(seed, 500)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(11))
def test_long_runs_of_histories(seed: int, part: int) -> None:
    _play(seed + part, 10_000)

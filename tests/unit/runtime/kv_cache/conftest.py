"""Prompts, and what an engine without offloading answers."""

from __future__ import annotations

import random

import pytest

from tests.unit.runtime.kv_cache.asking import PROMPT, ask, new_core


@pytest.fixture
def prompts(seed: int) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.randrange(257) for _ in range(PROMPT)) for _ in range(6)]


@pytest.fixture
def alone(prompts: list[tuple[int, ...]]) -> list[list[int]]:
    return [ask(new_core(None), prompt)[0] for prompt in prompts]

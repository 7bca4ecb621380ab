"""How threads go from one step to the next, with threads that stay away wherever they read what others change."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.build.targets.cpu.compiler.compile import compile_library
from inflight.build.targets.cpu.compiler.cpu_levels import native_level
from inflight.engine_format.cpu_abi import OK
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.kernel

STEPS = 500


def in_time(call: Callable[[], Any]) -> bool:
    """Whether `call` returns: threads that wait for each other never do."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return not thread.is_alive()


def test_steps_that_are_submitted_ahead_are_computed_once_each(tmp_path: Path, rng: np.random.Generator) -> None:
    source = (Path(__file__).parent / "stepping_model.h").read_text()
    compile_library(source, native_level(), tmp_path / "steps.so")
    generate = ctypes.CDLL(str(tmp_path / "steps.so")).generate
    first = int(rng.integers(997))

    def generated(threads: int, seed: int) -> list[int]:
        tokens = (ctypes.c_int32 * (STEPS + 1))(first)
        statuses: list[int] = []
        assert in_time(lambda: statuses.append(generate(threads, STEPS, seed, tokens))), "threads wait for each other"
        assert statuses == [OK]
        return list(tokens)

    alone = generated(1, 0)
    assert len(set(alone)) > 100
    for threads in (1, 2, 3):
        assert generated(threads, int(rng.integers(1, 1 << 31))) == alone

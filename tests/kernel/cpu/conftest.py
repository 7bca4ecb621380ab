"""The instruction sets that kernels are tested for."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.build.targets.cpu.compiler.cpu_levels import CpuLevel
from tests.kernel.cpu.quantized import chosen_level


@pytest.fixture
def level(request: pytest.FixtureRequest, rng: np.random.Generator) -> CpuLevel:
    """Of a test that is marked with LEVELS."""
    return chosen_level(request.param, rng)

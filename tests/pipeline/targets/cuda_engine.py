"""A small engine of the cuda target, and the model it was built from."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from tests.conftest import SEED_VARIABLE
from tests.models.random_models import random_shape
from tests.network.support import Case, make_case
from tests.pipeline.targets.cuda_steps import LIMITS


@dataclass(frozen=True)
class CudaEngine:
    case: Case
    directory: Path

    def prompt(self, rng: np.random.Generator, length: int) -> list[int]:
        return [int(token) for token in rng.integers(self.case.checkpoint.config.vocab_size, size=length)]


def build_cuda_engine(root: Path, dtype: torch.dtype) -> CudaEngine:
    """Of a fresh random model; prints the seed that repeats it."""
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    shape = replace(random_shape(np.random.default_rng(seed), "qwen2"), vocab_size=97)
    case = make_case(root, shape, seed, dtype)
    build_engine(case.checkpoint.directory, root / "engine", make_recipe(target="cuda", **LIMITS))
    return CudaEngine(case, root / "engine")

"""A random model of odd sizes with its engine, built as a user builds it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from tests.conftest import SEED_VARIABLE
from tests.models.random_models import random_shape, save_random_model


@dataclass(frozen=True)
class BuiltEngine:
    directory: Path
    model: PreTrainedModel
    dtype: torch.dtype
    vocab_size: int

    def random_prompt(self, rng: np.random.Generator, length: int) -> tuple[int, ...]:
        return tuple(rng.integers(self.vocab_size, size=length).tolist())


def fresh_rng() -> np.random.Generator:
    """For fixtures of more than one test: another in each run, or that of INFLIGHT_TEST_SEED."""
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    return np.random.default_rng(seed)


def build_random_engine(
    root: Path, family: str, dtype: torch.dtype, changes: Mapping[str, Any] | None = None, **recipe: Any
) -> BuiltEngine:
    """Fresh weights and a fresh shape; the seed is printed, and INFLIGHT_TEST_SEED repeats it.

    changes: fields of the shape that are not left to chance.
    """
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    shape = replace(random_shape(np.random.default_rng(seed), family), **(changes or {}))
    model = save_random_model(root / "model", shape, seed, dtype)
    convert_model(root / "model", root / "checkpoint", ConvertOptions())
    build_engine(root / "checkpoint", root / "engine", make_recipe(**recipe))
    return BuiltEngine(root / "engine", model, dtype, shape.vocab_size)

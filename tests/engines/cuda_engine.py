"""A small engine of the cuda target and the model it was built from, and steps that are put together by hand."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.conftest import SEED_VARIABLE
from tests.models.random_models import random_shape
from tests.network.support import Case, make_case

LIMITS = {"max_batch_size": 6, "max_seq_len": 64, "max_num_tokens": 48, "max_logit_rows": 8, "tokens_per_block": 16}
BLOCKS = 12


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


def chunk(slot: int, tokens: list[int], blocks: list[int], *, start: int = 0, prompt: int = 0) -> ScheduledSequence:
    """The tokens from `start` on, of a sequence with `prompt` tokens of prompt; a token is chosen after the last."""
    return ScheduledSequence(slot, tokens[start:], start, blocks, RowSampling(), sample_last=True, prompt_length=prompt)


def logits(executor: Any, *sequences: ScheduledSequence) -> npt.NDArray[np.float32]:
    return np.asarray(executor.execute_with_logits(StepBatch(sequences))[1])

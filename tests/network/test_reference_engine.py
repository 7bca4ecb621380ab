"""An engine of target `reference`: what it is made of. How it runs: tests/pipeline/test_executors.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.recipe import BuildRecipe
from tests.models.random_models import random_shape
from tests.network.support import ALL_FAMILIES, make_case

pytestmark = pytest.mark.network

RECIPE = BuildRecipe(
    target="reference", max_seq_len=112, max_batch_size=4, max_num_tokens=48, max_logit_rows=48, tokens_per_block=16
)


def test_two_builds_are_the_same_bytes(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    dtype = torch.bfloat16 if rng.random() < 0.5 else torch.float32
    case = make_case(tmp_path, random_shape(rng, str(rng.choice(ALL_FAMILIES))), seed, dtype)
    manifests = [build_engine(case.checkpoint.directory, tmp_path / name, RECIPE) for name in ("one", "two")]
    assert manifests[0] == manifests[1]
    assert set(manifests[0].files) >= {"network.onnx", "rank0.safetensors", "rope.cos.table", "rope.sin.table"}

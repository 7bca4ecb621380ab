"""Small engines that embed or score, for tests of what is served."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Literal

import numpy as np

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from tests.conftest import SEED_VARIABLE
from tests.models.families.pooled import save_cross_encoder, save_embedding_model, save_token_classifier


def write_pooling_engine(root: Path, task: Literal["embed", "score", "classify", "token_classify"]) -> Path:
    """Of random weights, of target reference; the seed is printed, and INFLIGHT_TEST_SEED repeats it."""
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    rng = np.random.default_rng(seed)
    if task == "embed":
        save_embedding_model(root / "model", "bert", rng, pooling="mean")
    elif task == "token_classify":
        save_token_classifier(root / "model", "bert", rng)
    else:
        save_cross_encoder(root / "model", "bert", rng, num_labels=1 if task == "score" else 3)
    convert_model(root / "model", root / "checkpoint")
    build_engine(root / "checkpoint", root / "engine", make_recipe("reference", max_batch_size=8))
    return root / "engine"

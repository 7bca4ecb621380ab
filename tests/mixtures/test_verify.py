"""`inflight verify` on mixtures of experts: engines that are right, one that is not, and routers that hesitate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.cli.verify.routing import Choice, hesitating
from inflight.convert.api import convert_model
from tests.models.families.mixtures import MIXTURES
from tests.models.random_models import random_shape, save_random_model

_TOKENS = 12
_ALWAYS = (("granitemoe", "reference"), ("phimoe", "cpu"))


def verified(directory: Path, target: str, model: str = "model", of: str = "model") -> tuple[int, dict[str, Any]]:
    """The exit code and the report on an engine made of one model and held against another."""
    convert_model(directory / of, directory / "checkpoint")
    recipe = make_recipe(target=target, max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(directory / "checkpoint", directory / "engine", recipe)
    words = ["verify", str(directory / model), str(directory / "engine"), "--max-tokens", str(_TOKENS), "--json"]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.pipeline
# In 16 bits a right engine may fail where routers hesitate at many tokens (docs/limitations.md).
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)],
    ids=["float32", "bfloat16"],
)
@pytest.mark.parametrize(
    ("family", "target"),
    [
        pytest.param(family, target, marks=() if (family, target) in _ALWAYS else pytest.mark.slow)
        for family in MIXTURES
        for target in ("reference", "cpu")
    ],
)
def test_a_right_engine_of_a_mixture_passes(
    tmp_path: Path, family: str, target: str, dtype: torch.dtype, seed: int, rng: np.random.Generator
) -> None:
    save_random_model(tmp_path / "model", random_shape(rng, family), seed, dtype)
    code, report = verified(tmp_path, target)
    assert code == 0, report
    for prompt in report["prompts"]:
        assert prompt["same"] + prompt["ties"] + prompt["excused"] == _TOKENS
        if dtype == torch.float32:
            assert prompt["hesitates"] == prompt["excused"] == 0


@pytest.mark.pipeline
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_wrong_engine_of_a_mixture_fails_however_its_router_hesitates(
    tmp_path: Path, dtype: torch.dtype, seed: int, rng: np.random.Generator
) -> None:
    """Its attention is right, and one matrix of one expert is another's."""
    shape = random_shape(rng, "mixtral")
    model = save_random_model(tmp_path / "model", shape, seed, dtype)
    with torch.no_grad():
        stack = model.model.layers[0].mlp.experts.down_proj
        stack.copy_(stack.roll(1, dims=1))
    model.save_pretrained(tmp_path / "other")
    code, report = verified(tmp_path, "reference", of="other")
    assert code == 1 and not all(prompt["passed"] for prompt in report["prompts"])


@pytest.mark.unit
def test_a_token_hesitates_where_rounding_could_change_the_last_expert_that_it_takes(rng: np.random.Generator) -> None:
    tokens, experts, count = int(rng.integers(2, 40)), int(rng.integers(3, 20)), int(rng.integers(1, 3))
    order = rng.permuted(np.tile(np.arange(experts, dtype=np.float32), (tokens, 1)), axis=1)
    close = rng.random(tokens) < 0.5
    last = np.argsort(-order, axis=1)[:, count - 1]
    order[close, last[close]] -= np.float32(0.999)
    noise = (0.01 * rng.choice([-1, 1], order.shape)).astype(np.float32)
    exact, rounded = [Choice(order, count)], [Choice(order + noise, count)]
    np.testing.assert_array_equal(hesitating(exact, rounded, 1.5, tokens), close)
    assert not hesitating(exact, exact, 1.5, tokens).any()
    assert not hesitating([Choice(order, experts)], [Choice(order + 1, experts)], 1.5, tokens).any()
    assert hesitating([], [], 1.5, tokens).tolist() == [False] * tokens

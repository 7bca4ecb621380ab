"""`inflight verify` on mixtures of experts: engines that are right, one that is not, and routers that hesitate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.cli.verify.oracle import EngineNumbers, Oracle
from inflight.cli.verify.routing import Choice, before_first, hesitating
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.reference.decoder import hidden_states
from inflight.convert.families.table import find_family
from inflight.convert.options import ConvertOptions
from tests.mixtures.test_quantized import even_shape
from tests.models.families.further import decoder
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
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
            assert prompt["hesitates"] <= 1 and prompt["excused"] == 0
    assert report["routing"] is None or report["routing"]["passed"]


@pytest.mark.pipeline
@pytest.mark.parametrize("family", ["llama4_text", "llama4", "gpt_oss", None])
def test_the_judge_of_a_quantized_mixture_has_its_numbers(
    tmp_path: Path, family: str | None, seed: int, rng: np.random.Generator
) -> None:
    """However transformers holds its experts. Some have 16 levels, which are far from what the model had."""
    family = family or str(rng.choice(MIXTURES))
    # An expert's neighbouring outputs share a byte.
    shape = even_shape(rng, family) if family in MIXTURES else random_shape(rng, family)
    model = save_random_model(tmp_path / "model", shape, seed)
    quantize = "int4_wo" if family in MIXTURES else "int8_wo"
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(progress=False, quantize=quantize))
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    row = find_family(json.loads((tmp_path / "model" / "config.json").read_text()))
    assert row is not None
    oracle = Oracle(tmp_path / "model", "float32", widen=True)
    oracle.take(EngineNumbers.of(checkpoint, row))
    tokens = rng.integers(0, shape.vocab_size, 12).tolist()
    (answer,) = oracle.answers([tokens])
    *_, expected = hidden_states(checkpoint, tokens)
    with torch.no_grad():
        plain = decoder(model)(torch.tensor([tokens])).logits[0].numpy()
    error, lost = (np.median(np.abs(each - expected).max(axis=1)) for each in (answer.logits, plain))
    assert error < 0.05 * lost, (error, lost)


def exchange_experts(model: Any) -> None:
    """Of the first layer that has some, the first two; the router still means what it did."""
    stack = next(layer.mlp.experts.down_proj for layer in model.model.layers if hasattr(layer.mlp, "experts"))
    with torch.no_grad():
        stack[:2] = stack[:2].flip(0)


def take_one_expert_more(model: Any) -> None:
    model.config.num_experts_per_tok += 1


def turn_norm_topk_prob(model: Any) -> None:
    model.config.norm_topk_prob = not model.config.norm_topk_prob


@pytest.mark.pipeline
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("spoil", [exchange_experts, take_one_expert_more, turn_norm_topk_prob])
def test_a_wrong_engine_of_a_mixture_fails_however_its_router_hesitates(
    tmp_path: Path, dtype: torch.dtype, spoil: Callable[[Any], None], seed: int, rng: np.random.Generator
) -> None:
    count = int(rng.integers(4, 9))
    sizes = {"num_experts": count, "num_experts_per_tok": int(rng.integers(1, 3)), "norm_topk_prob": True}
    shape = replace(random_shape(rng, "qwen3_moe"), extra={**sizes, "moe_intermediate_size": int(rng.integers(9, 90))})
    model = save_random_model(tmp_path / "model", shape, seed, dtype)
    spoil(model)
    model.save_pretrained(tmp_path / "other")
    code, report = verified(tmp_path, "reference", of="other")
    assert code == 1, report


@pytest.mark.unit
def test_a_token_hesitates_where_rounding_could_change_the_last_expert_that_it_takes(rng: np.random.Generator) -> None:
    tokens, experts, count = int(rng.integers(20, 60)), int(rng.integers(3, 20)), int(rng.integers(1, 3))
    order = rng.permuted(np.tile(np.arange(experts, dtype=np.float32), (tokens, 1)), axis=1)
    close = rng.random(tokens) < 0.5
    last = np.argsort(-order, axis=1)[:, count - 1]
    order[close, last[close]] -= np.float32(0.999)
    noise = (0.01 * rng.choice([-1, 1], order.shape)).astype(np.float32)
    exact, rounded = [Choice(order, count)], [Choice(order + noise, count)]
    (found,) = hesitating([exact], [rounded])
    np.testing.assert_array_equal(found, close)
    assert before_first(found).sum() == (tokens if not close.any() else close.argmax())
    assert not hesitating([exact], [exact])[0].any()
    assert not hesitating([[Choice(order, experts)]], [[Choice(order + 1, experts)]])[0].any()
    assert hesitating([[], []], [[], []])[1].size == 0


def test_a_router_hesitates_where_a_score_is_at_the_edge_of_counting(rng: np.random.Generator) -> None:
    """As PhiMoE's, whose experts count if their scores are near enough to the greatest."""
    tokens, experts, edge = 50, int(rng.integers(2, 9)), float(rng.uniform(-1, 1))
    scores = edge + rng.choice([-1, 1], (tokens, experts)) * rng.uniform(0.5, 1, (tokens, experts))
    at_edge = rng.random(tokens) < 0.3
    scores[at_edge, rng.integers(experts)] = edge + 1e-4 * rng.choice([-1, 1])
    noise = 1e-3 * rng.choice([-1, 1], scores.shape)
    (found,) = hesitating([[Choice(scores, 0, edge)]], [[Choice(scores + noise, 0, edge)]])
    assert np.array_equal(found, at_edge)

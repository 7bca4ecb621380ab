"""Engines of which some modules are quantized and others plain: each reads rows in the type in which they were made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from tests.models.random_models import Shape, save_random_model

pytestmark = pytest.mark.pipeline

# int4_wo has 16-bit rows, int8_w8a8 8-bit ones.
SCHEMES = ("int4_wo", "int8_wo", "int8_w8a8", "nf4")
PARTS = ("*.attention.qkv", "*.attention.dense", "*.mlp.[fg]*", "*.mlp.proj", "lm_head")


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("llama", "*.mlp.proj"),
        ("gemma2", "any"),
        ("starcoder2", "any"),
        ("llama", "groups"),
        pytest.param("gemma2", "*.mlp.proj", marks=pytest.mark.slow),
        pytest.param("llama", "*.mlp.[fg]*", marks=pytest.mark.slow),
        pytest.param("llama", "any", marks=pytest.mark.slow),
    ],
)
def test_plain_bfloat16_modules_beside_quantized_ones_verify(
    tmp_path: Path, seed: int, rng: np.random.Generator, family: str, part: str
) -> None:
    """A gated MLP with plain weights makes rows for a product of another type; and schemes have groups of their own."""
    parts = [part] if part != "any" else list(rng.choice(PARTS, int(rng.integers(1, len(PARTS))), replace=False))
    schemes = [(str(each), str(rng.choice(SCHEMES))) for each in parts]
    schemes = [("*.attention.qkv", "nf4"), ("*.mlp.proj", "int4_wo")] if part == "groups" else schemes
    print(schemes)
    extra = {"use_bias": bool(rng.integers(2))} if family == "starcoder2" else {}
    save_random_model(tmp_path / "model", Shape(family, hidden_size=144, extra=extra), seed, torch.bfloat16)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(module_schemes=tuple(schemes)))
    recipe = make_recipe(target="cpu", max_batch_size=2, max_seq_len=64, max_num_tokens=8)
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", recipe)
    words = ["verify", str(tmp_path / "model"), str(tmp_path / "engine"), "--max-tokens", "4", "--json"]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    report = json.loads(result.stdout)
    # A wrong type of rows is off by all of them; the bound on one prompt is of chance, and not asked for here.
    assert report["overall"]["passed"], report

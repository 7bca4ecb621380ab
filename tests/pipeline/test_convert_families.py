"""A converted checkpoint means what the model meant: its NumPy decoder against transformers, layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.reference_decoder import hidden_states
from tests.models.random_models import LINEAR_ROPE, LLAMA3_ROPE, Shape, random_shape, save_random_model

pytestmark = pytest.mark.pipeline


def assert_same_model(directory: Path, shape: Shape, seed: int, rng: np.random.Generator) -> None:
    model = save_random_model(directory / "model", shape, seed).double()
    convert_model(directory / "model", directory / "checkpoint")
    tokens = rng.integers(0, shape.vocab_size, size=90)
    with torch.no_grad():
        expected = model(torch.tensor(tokens)[None], output_hidden_states=True)
    found = list(hidden_states(Checkpoint.open(directory / "checkpoint"), tokens.tolist()))
    # transformers' last hidden state is already normalized, so the layers before it and the logits are compared.
    for layer, (ours, theirs) in enumerate(zip(found[:-2], expected.hidden_states[:-1], strict=True)):
        np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-4, atol=1e-4, err_msg=f"layer {layer}")
    scale = float(expected.logits.abs().max())
    np.testing.assert_allclose(found[-1] / scale, expected.logits[0].numpy() / scale, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "ministral", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_every_family_survives_conversion_at_odd_shapes(
    tmp_path: Path, family: str, seed: int, rng: np.random.Generator
) -> None:
    assert_same_model(tmp_path, random_shape(rng, family), seed, rng)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(rope=LLAMA3_ROPE, tied=True),
        Shape(rope=LINEAR_ROPE),
        Shape(extra={"attention_bias": True, "mlp_bias": True}),
        Shape(family="mistral", sliding_window=7),
        Shape(family="qwen2", sliding_window=9, num_kv_heads=3, queries_per_kv=1),
        Shape(family="qwen3", sliding_window=11, extra={"attention_bias": True}),
    ],
    ids=["llama3-rope-tied", "linear-rope", "llama-biases", "mistral-window", "qwen2-window-mha", "qwen3-bias-window"],
)
def test_every_option_of_a_family_survives_conversion(
    tmp_path: Path, shape: Shape, seed: int, rng: np.random.Generator
) -> None:
    assert_same_model(tmp_path, shape, seed, rng)

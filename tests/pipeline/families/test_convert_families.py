"""A converted checkpoint means what the model meant: its NumPy decoder against transformers, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import PreTrainedModel

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.reference.decoder import hidden_states
from inflight.convert.families.table import family_of
from inflight.convert.options import ConvertOptions
from tests.models.families.further import decoder
from tests.models.random_models import (
    LINEAR_ROPE,
    LLAMA3_ROPE,
    Shape,
    random_shape,
    save_random_model,
)
from tests.models.ropes import ROPE_KINDS, random_rope
from tests.network.support import ALL_FAMILIES, relative_error
from tests.oracles.float64 import in_float64, made_in_float64
from tests.pipeline.families.on_gpu_targets import assert_lowered_or_refused

pytestmark = pytest.mark.pipeline


EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon")
# Both sides compute in float64, and no router hesitates there. What is left are constants that transformers has to
# fewer digits; sums of a norm's weight and an offset, and scaled biases of scores, are float32 here.
TOLERANCE = 1e-9
ROUNDED_ONCE = 5e-7


def assert_same_model(directory: Path, shape: Shape, seed: int, rng: np.random.Generator) -> Checkpoint:
    """The hidden states behind every layer and the logits, relative to the greatest of each. Returns the checkpoint."""
    shape = with_another_epsilon(shape, rng)
    model = save_random_model(directory / "model", shape, seed)
    convert_model(directory / "model", directory / "checkpoint", ConvertOptions(progress=False))
    checkpoint = Checkpoint.open(directory / "checkpoint")
    assert_same_states(checkpoint, model, rng.integers(0, shape.vocab_size, size=90))
    return checkpoint


def assert_same_states(checkpoint: Checkpoint, model: PreTrainedModel, tokens: npt.NDArray[np.int64]) -> None:
    oracle = made_in_float64(model)
    with in_float64():
        expected = decoder(oracle)(torch.tensor(tokens)[None], output_hidden_states=True)
    assert expected.logits.dtype == torch.float64
    family = family_of(checkpoint.config.architecture)
    tolerance = ROUNDED_ONCE if family.norm_offset or family.alibi_rounded else TOLERANCE
    *found, _, logits = hidden_states(checkpoint, tokens.tolist())
    # transformers' last hidden state is already normalized, so the layers before it and the logits are compared.
    for layer, (ours, theirs) in enumerate(zip(found, expected.hidden_states[:-1], strict=True)):
        assert relative_error(ours, theirs[0].numpy()) < tolerance, f"layer {layer}"
    assert relative_error(logits, expected.logits[0].numpy()) < tolerance


def with_another_epsilon(shape: Shape, rng: np.random.Generator) -> Shape:
    """Half of the time: one that is not the default, and great enough to be seen in every norm."""
    config = shape.config()
    names = [name for name in EPSILONS if hasattr(getattr(config, "text_config", config), name)]
    if rng.random() < 0.5:
        return shape
    return replace(shape, extra={**shape.extra, **{name: float(rng.uniform(1e-4, 1e-1)) for name in names}})


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_survives_conversion_at_odd_shapes(
    tmp_path: Path, family: str, seed: int, rng: np.random.Generator
) -> None:
    assert_lowered_or_refused(assert_same_model(tmp_path, random_shape(rng, family), seed, rng))


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


@pytest.mark.parametrize("kind", ROPE_KINDS)
def test_every_kind_of_rope_survives_conversion(tmp_path: Path, kind: str, seed: int, rng: np.random.Generator) -> None:
    """The 90 tokens are more than longrope's original length at times, and then every position has its other angles."""
    rope = random_rope(rng, kind, 24)
    if kind.startswith("longrope"):
        rope["original_max_position_embeddings"] = int(rng.integers(60, 120))
    assert_same_model(tmp_path, Shape(rope=rope), seed, rng)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "stablelm", "starcoder2"])
def test_ranks_hold_parts_of_the_whole_model(tmp_path: Path, family: str, seed: int, rng: np.random.Generator) -> None:
    shape = replace(random_shape(rng, family), num_kv_heads=2, queries_per_kv=1, hidden_size=48, head_size=24)
    save_random_model(tmp_path / "model", shape, seed, torch.bfloat16)
    convert_model(tmp_path / "model", tmp_path / "whole")
    convert_model(tmp_path / "model", tmp_path / "split", ConvertOptions(tp_size=2, pp_size=shape.num_layers))
    whole, split = Checkpoint.open(tmp_path / "whole"), Checkpoint.open(tmp_path / "split")
    for name, entry in whole.tensors.items():
        if "layernorm" not in name and "mlp.fc" not in name:
            continue
        stage = int(name.split(".")[2])
        local = name.replace(f"layers.{stage}.", "layers.0.")
        parts = [split.array(local, 2 * stage + rank) for rank in range(2)]
        joined = parts[0] if "layernorm" in name else np.concatenate(parts)
        assert joined.tobytes() == whole.array(name).tobytes() and entry.dtype == joined.dtype.name

"""The definition of the checkpoint's mathematics, in NumPy: the whole decoder, one sequence, no KV cache.

Slow and simple on purpose. `inflight verify` uses it to find the layer in which a model and an engine differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.rope import RotaryScaling
from inflight.errors import CheckpointError

Array = npt.NDArray[Any]


def hidden_states(checkpoint: Checkpoint, token_ids: Sequence[int]) -> Iterator[Array]:
    """Yield the residual stream [tokens, hidden] after the embedding and each layer, then logits [tokens, vocab].

    Computed in float64 from the stored weights, quantized ones times their scales; rows are not rounded. One layer's
    weights are in memory at a time.
    Raises CheckpointError for a checkpoint of several ranks.
    """
    config = checkpoint.config
    if config.mapping.world_size != 1:
        raise CheckpointError(f"{checkpoint.directory} is split over {config.mapping.world_size} ranks; one is needed.")
    cos, sin = _rotation(checkpoint, len(token_ids))
    mask = _mask(len(token_ids), config.sliding_window)
    x = checkpoint.array("transformer.vocab_embedding.weight")[np.asarray(token_ids)].astype(np.float64)
    yield x
    for layer in range(config.num_hidden_layers):
        weights = _LayerWeights(checkpoint, f"transformer.layers.{layer}.")
        x = x + _attention(weights, _norm(x, weights["input_layernorm.weight"], config.norm_epsilon), cos, sin, mask)
        x = x + _mlp(weights, _norm(x, weights["post_layernorm.weight"], config.norm_epsilon))
        yield x
    head = "transformer.vocab_embedding" if checkpoint.ties_embeddings else "lm_head"
    last = _norm(x, checkpoint.array("transformer.ln_f.weight").astype(np.float64), config.norm_epsilon)
    yield last @ checkpoint.matrix(head).astype(np.float64).T


class _LayerWeights:
    """The tensors of one layer by their short names, read as float64."""

    def __init__(self, checkpoint: Checkpoint, prefix: str) -> None:
        self.config = checkpoint.config
        self._checkpoint = checkpoint
        self._prefix = prefix

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._checkpoint.tensors

    def __getitem__(self, name: str) -> Array:
        return self._checkpoint.array(self._prefix + name).astype(np.float64)

    def linear(self, x: Array, module: str) -> Array:
        y = x @ self._checkpoint.matrix(self._prefix + module).astype(np.float64).T
        return y + self[f"{module}.bias"] if f"{module}.bias" in self else y


def _norm(x: Array, weight: Array, epsilon: float) -> Array:
    result: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight
    return result


def _mlp(weights: _LayerWeights, x: Array) -> Array:
    gate = weights.linear(x, "mlp.fc")
    return weights.linear(gate / (1.0 + np.exp(-gate)) * weights.linear(x, "mlp.gate"), "mlp.proj")


def _attention(weights: _LayerWeights, x: Array, cos: Array, sin: Array, mask: Array) -> Array:
    config = weights.config
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_size
    qkv = weights.linear(x, "attention.qkv").reshape(len(x), heads + 2 * kv_heads, size)
    q, k, v = np.split(qkv, [heads, heads + kv_heads], axis=1)
    if "attention.q_layernorm.weight" in weights:
        q = _norm(q, weights["attention.q_layernorm.weight"], config.norm_epsilon)
        k = _norm(k, weights["attention.k_layernorm.weight"], config.norm_epsilon)
    q, k = _rotate(q, cos, sin), np.repeat(_rotate(k, cos, sin), heads // kv_heads, axis=1)
    scores = np.einsum("thd,shd->hts", q, k) * size**-0.5 + mask
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hts,shd->thd", scores, np.repeat(v, heads // kv_heads, axis=1))
    return weights.linear(mixed.reshape(len(x), heads * size), "attention.dense")


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    first, second = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _rotation(checkpoint: Checkpoint, count: int) -> tuple[Array, Array]:
    config = checkpoint.config
    exponents = np.arange(0, config.head_size, 2) / config.head_size
    frequencies = _scale(config.rotary_base**-exponents, config.rotary_scaling)
    angles = np.arange(count)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


def _scale(frequencies: Array, scaling: RotaryScaling | None) -> Array:
    if scaling is None:
        return frequencies
    low, high, original = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings
    if low is None or high is None or original is None:
        return frequencies / scaling.factor
    # The share of each frequency that stays unscaled: 0 for long waves, 1 for short ones, a ramp between.
    kept = np.clip((original * frequencies / (2 * np.pi) - low) / (high - low), 0.0, 1.0)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _mask(count: int, window: int | None) -> Array:
    distance = np.arange(count)[:, None] - np.arange(count)[None, :]
    visible = (distance >= 0) & (distance < (window or count))
    return np.where(visible, 0.0, -np.inf)

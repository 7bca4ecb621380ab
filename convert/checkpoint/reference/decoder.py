"""The definition of the checkpoint's mathematics, in NumPy: the whole decoder, one sequence, no KV cache.

Slow and simple on purpose. `inflight verify` uses it to find the layer in which a model and an engine differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.expert_stacks import Stack
from inflight.convert.checkpoint.model_spec import (
    AttentionSpec,
    ExpertActivation,
    ExpertsSpec,
    LatentSpec,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    RopeSpec,
)
from inflight.convert.checkpoint.position_spec import Sight, SlopesSpec, bias_table
from inflight.convert.checkpoint.reference.experts import ExpertMatrices, clamped_swiglu, mix_experts, route
from inflight.convert.checkpoint.reference.rope import inverse_frequencies
from inflight.errors import CheckpointError

Array = npt.NDArray[Any]


def hidden_states(checkpoint: Checkpoint, token_ids: Sequence[int]) -> Iterator[Array]:
    """Yield the residual stream [tokens, hidden] after the embedding and each layer, then logits [tokens, vocab].

    Computed in float64 from the stored weights, quantized ones times their scales; rows are not rounded. One layer's
    weights are in memory at a time.
    Raises CheckpointError for a checkpoint of several ranks.
    """
    spec, world_size = checkpoint.spec, checkpoint.config.mapping.world_size
    if world_size != 1:
        raise CheckpointError(f"{checkpoint.directory} is split over {world_size} ranks; one is needed.")
    x = checkpoint.array("transformer.vocab_embedding.weight")[np.asarray(token_ids)].astype(np.float64)
    x = x * spec.embedding_scale
    if spec.positions is not None:
        x = x + checkpoint.array("transformer.position_embedding.weight")[: len(x)].astype(np.float64)
    if spec.embedding_norm is not None:
        x = DecoderWeights(checkpoint, "transformer.").norm(x, spec.embedding_norm)
    yield x
    for index, layer in enumerate(spec.layers):
        x = decoder_layer(DecoderWeights(checkpoint, f"transformer.layers.{index}."), layer, x)
        yield x
    yield final_logits(DecoderWeights(checkpoint, ""), spec, x)


def final_logits(weights: DecoderWeights, spec: ModelSpec, x: Array) -> Array:
    """Logits [tokens, vocab] of the residual stream [tokens, hidden] behind all layers; `weights` have no prefix."""
    assert spec.final_norm is not None and spec.pooled is None, "a decoder that yields logits"
    last = weights.norm(x, replace(spec.final_norm, module=f"transformer.{spec.final_norm.module}"))
    head = "lm_head" if spec.lm_head else "transformer.vocab_embedding"
    logits = weights.linear(last, head, bias=False) + (weights["lm_head.bias"] if spec.head_bias else 0)
    return _capped(logits * spec.logit_scale, spec.logit_softcap)


def decoder_layer(weights: DecoderWeights, layer: LayerSpec, x: Array) -> Array:
    """The residual stream [tokens, hidden] behind a layer, from that before it, in the type of x."""
    delta = _attention(weights, layer.attention, weights.norm(x, layer.before_attention))
    if layer.parallel:
        delta = delta + _mlp(weights, layer.mlp, weights.norm(x, layer.before_mlp))
        together: Array = x + layer.residual_scale * delta
        return together
    x = x + layer.residual_scale * weights.norm(delta, layer.after_attention)
    delta = _mlp(weights, layer.mlp, weights.norm(x, layer.before_mlp))
    result: Array = x + layer.residual_scale * weights.norm(delta, layer.after_mlp)
    return result


class TensorReader(Protocol):
    """Tensors and matrices (out, in) by their checkpoint names; a Checkpoint of one rank is one."""

    def array(self, name: str) -> Array: ...

    def matrix(self, module: str) -> Array: ...

    def stack(self, module: str) -> Stack: ...

    def input_factors(self, module: str) -> Array | None:
        """What the values of a module's rows are multiplied by first, [in]; None: nothing."""


class DecoderWeights:
    """The tensors below a prefix by their short names, read as `dtype`."""

    def __init__(self, tensors: TensorReader, prefix: str, dtype: npt.DTypeLike = np.float64) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self._dtype = dtype

    def __getitem__(self, name: str) -> Array:
        return self._tensors.array(self._prefix + name).astype(self._dtype)

    def matrix(self, module: str) -> Array:
        """The weight (out, in) of a module."""
        return self._tensors.matrix(self._prefix + module).astype(self._dtype)

    def stack(self, module: str) -> Stack:
        """The weights (out, in) of all experts by their numbers."""
        return self._tensors.stack(self._prefix + module)

    def expert_rows(self, x: Array, module: str, expert: int) -> Array:
        """The rows that the weight of an expert of a module multiplies."""
        return x

    def rows(self, x: Array, module: str) -> Array:
        """The rows that the weight of a module multiplies: x times the module's factors."""
        factors = self._tensors.input_factors(self._prefix + module)
        return x if factors is None else x * factors.astype(self._dtype)

    def linear(self, x: Array, module: str, bias: bool) -> Array:
        y = self.rows(x, module) @ self.matrix(module).T
        return y + self[f"{module}.bias"] if bias else y

    def cached(self, keys: Array, values: Array) -> None:
        """What a KV cache stores of a layer, both [tokens, kv heads, size]; there is none here."""

    def norm(self, x: Array, norm: NormSpec | None) -> Array:
        """x [..., size] normalized; x itself where there is no norm."""
        if norm is None:
            return x
        centred = x - np.mean(x, axis=-1, keepdims=True) if norm.kind == "layer" else x
        scale = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + norm.epsilon)
        result: Array = centred / scale
        result = result * self[f"{norm.module}.weight"] if norm.weight else result
        return result + self[f"{norm.module}.bias"] if norm.bias else result


def _mlp(weights: DecoderWeights, mlp: MlpSpec | ExpertsSpec, x: Array, module: str = "mlp") -> Array:
    if isinstance(mlp, ExpertsSpec):
        return _experts(weights, mlp, x)
    hidden = weights.linear(x, f"{module}.fc", mlp.bias)
    if mlp.activation == "xielu":
        hidden = _xielu(hidden, weights[f"{module}.act.weight"])
    else:
        hidden = _ACTIVATIONS[mlp.activation](hidden)
    if mlp.gated:
        hidden = hidden * weights.linear(x, f"{module}.gate", mlp.bias)
    return weights.linear(hidden, f"{module}.proj", mlp.last_bias)


def _experts(weights: DecoderWeights, spec: ExpertsSpec, x: Array) -> Array:
    logits = weights.linear(x, "mlp.router", bias=spec.bias)
    biases = (weights["mlp.fc.bias"], weights["mlp.proj.bias"]) if spec.bias else None
    matrices = ExpertMatrices(weights.stack("mlp.fc"), weights.stack("mlp.proj"), biases, weights.expert_rows)
    bias = weights["mlp.router.e_score_correction_bias"] if spec.biased_choice else None
    found = mix_experts(spec, route(spec, logits, bias), x, matrices, _gated(spec.activation))
    if spec.shared is None:
        return found
    assert spec.activation != "clamped_swiglu", "no shared expert has it"
    shared = _mlp(weights, MlpSpec(spec.shared.size, spec.activation), x, "mlp.shared_expert")
    if spec.shared.gated:
        shared = shared / (1.0 + np.exp(-weights.linear(x, "mlp.shared_expert_gate", bias=False)))
    return found + shared


def _gated(activation: ExpertActivation) -> Callable[[Array, Array], Array]:
    """What becomes of a gate and what multiplies it."""
    if activation == "clamped_swiglu":
        return clamped_swiglu
    return lambda gate, up: _ACTIVATIONS[activation](gate) * up


def _silu(x: Array) -> Array:
    return np.asarray(x / (1.0 + np.exp(-x)))


def _gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _relu(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0))


def _relu2(x: Array) -> Array:
    return np.asarray(np.square(np.maximum(x, 0)))


def _xielu(x: Array, numbers: Array) -> Array:
    """numbers [4]: see MlpSpec."""
    positive, negative = np.logaddexp(numbers[:2], 0)
    beta, epsilon = numbers[2:]
    below = (np.expm1(np.minimum(x, epsilon)) - x) * (negative + beta)
    return np.asarray(np.where(x > 0, positive * x * x, below) + beta * x)


_ACTIVATIONS = {"silu": _silu, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": _relu, "relu2": _relu2}


def _capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else np.asarray(cap * np.tanh(x / cap))


def _attention(weights: DecoderWeights, spec: AttentionSpec, x: Array) -> Array:
    if spec.latent is not None:
        return _latent_attention(weights, spec, spec.latent, x)
    heads, kv_heads, size = spec.num_heads, spec.num_kv_heads, spec.head_size
    qkv = weights.linear(x, "attention.qkv", spec.qkv_bias)
    qkv = qkv if spec.clip is None else np.clip(qkv, -spec.clip, spec.clip)
    q, k, v = np.split(qkv.reshape(len(x), heads + 2 * kv_heads, size), [heads, heads + kv_heads], axis=1)
    q, k = _turned(weights, spec, q, spec.q_norm), _turned(weights, spec, k, spec.k_norm)
    if spec.query_scale is not None:
        q = q * spec.query_scale.table(len(x)).astype(x.dtype)[:, None, None]
    weights.cached(k, v)
    k, v = (np.repeat(part, heads // kv_heads, axis=1) for part in (k, v))
    scores = _capped(q.swapaxes(0, 1) @ k.transpose(1, 2, 0) * spec.scale, spec.softcap)
    scores = scores + _bias(spec, len(x)).astype(x.dtype) + _mask(len(x), spec.sight).astype(x.dtype)
    if spec.sinks:
        sinks = np.broadcast_to(weights["attention.sinks"].astype(x.dtype)[:, None, None], (heads, len(x), 1))
        scores = np.concatenate([scores, sinks], axis=-1)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores = (scores / scores.sum(axis=-1, keepdims=True))[..., : len(x)]
    mixed = (scores @ v.swapaxes(0, 1)).swapaxes(0, 1)
    return weights.linear(mixed.reshape(len(x), heads * size), "attention.dense", spec.dense_bias)


def _latent_attention(weights: DecoderWeights, spec: AttentionSpec, latent: LatentSpec, x: Array) -> Array:
    """Keys and values of every head from the row that is cached of a token."""
    heads, plain = spec.num_heads, latent.plain_size
    if latent.query_rank is None:
        q = weights.linear(x, "attention.q", bias=False)
    else:
        q = weights.norm(weights.linear(x, "attention.q_a", spec.qkv_bias), latent.query_norm)
        q = weights.linear(q, "attention.q_b", bias=False)
    q_plain, q_turned = np.split(q.reshape(len(x), heads, spec.head_size), [plain], axis=-1)
    row, turned = np.split(weights.linear(x, "attention.kv_a", spec.qkv_bias)[:, None], [latent.rank], axis=-1)
    row, turned = weights.norm(row, latent.norm), _rotate(turned, spec.rope)
    weights.cached(np.concatenate([row, turned], axis=-1), row)
    k_b, v_b = weights["attention.k_b.weight"], weights["attention.v_b.weight"]
    scores = np.einsum("qhn,hrn,kr->hqk", q_plain, k_b, row[:, 0], optimize=True)
    scores = scores + np.einsum("qhd,kd->hqk", _rotate(q_turned, spec.rope), turned[:, 0], optimize=True)
    scores = scores * spec.scale + _mask(len(x), spec.sight).astype(x.dtype)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores = scores / scores.sum(axis=-1, keepdims=True)
    mixed = np.einsum("hqk,kr,hvr->qhv", scores, row[:, 0], v_b, optimize=True)
    return weights.linear(mixed.reshape(len(x), -1), "attention.dense", spec.dense_bias)


def _turned(weights: DecoderWeights, spec: AttentionSpec, heads: Array, norm: NormSpec | None) -> Array:
    """heads [tokens, heads, size] normed and rotated, in the layer's order."""
    if spec.norm_last:
        return weights.norm(_rotate(heads, spec.rope), norm)
    if not spec.norm_wide:
        return _rotate(weights.norm(heads, norm), spec.rope)
    return _rotate(weights.norm(heads.reshape(len(heads), -1), norm).reshape(heads.shape), spec.rope)


def _rotate(x: Array, rope: RopeSpec | None) -> Array:
    """The first `dim` elements of every head [tokens, heads, size], each pair of their halves turned by its angle."""
    if rope is None:
        return x
    angles = np.arange(len(x))[:, None, None] * inverse_frequencies(rope, len(x))
    factor = 1.0 if rope.scaling is None else rope.scaling.table_factor
    cos, sin = (np.cos(angles) * factor).astype(x.dtype), (np.sin(angles) * factor).astype(x.dtype)
    first, second, rest = np.split(x, [rope.dim // 2, rope.dim], axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _mask(count: int, sight: Sight) -> Array:
    return np.where(sight.mask(count), 0.0, -np.inf)


def _bias(spec: AttentionSpec, count: int) -> Array:
    """What is added to scores [heads, count, count]; one 0 where nothing is."""
    if spec.bias is None:
        return np.zeros(1)
    assert isinstance(spec.bias, SlopesSpec), "no decoder has buckets"
    table = bias_table(spec.bias, spec.scale, count)
    rows, keys = np.arange(count)[:, None], np.arange(count)[None, :]
    columns = np.broadcast_to(keys, (count, count)) if table.origin is None else keys - rows + table.origin
    return np.take(table.values.astype(np.float64), np.minimum(columns, table.values.shape[1] - 1), axis=1)

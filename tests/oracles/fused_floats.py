"""NumPy references of the fused operators on floats (fused_operators.py has the others, and says what they are)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def embedding_lookup(token_ids: Array, weight: Array, *, scale: float) -> Floats:
    return float32(weight[token_ids]) * np.float32(scale)


def rms_norm(x: Array, weight: Array, residual: Array | None = None, *, epsilon: float) -> Floats:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis, added to the residual."""
    x = float32(x)
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
    return added(float32(x / np.sqrt(mean_square + np.float32(epsilon)) * float32(weight)), None, residual)


def layer_norm(x: Array, weight: Array, bias: Array | None = None, *, epsilon: float) -> Floats:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis."""
    x = float32(x)
    centered = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(np.square(centered), axis=-1, keepdims=True, dtype=np.float32)
    return added(float32(centered / np.sqrt(variance + np.float32(epsilon)) * float32(weight)), bias, None)


def linear(x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None) -> Floats:
    return added(float32(x) @ float32(weight).T, bias, residual)


def gated_linear(
    x: Array,
    gate: Array,
    up: Array,
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    *,
    activation: str,
) -> Floats:
    """activation(x gate' + gate_bias) * (x up' + up_bias)."""
    return activated(linear(x, gate, gate_bias), activation=activation) * linear(x, up, up_bias)


def activated(x: Array, *, activation: str) -> Floats:
    """silu: x / (1 + exp(-x)); gelu: x/2 (1 + erf(x / sqrt 2)); gelu_tanh, with a tanh near that; relu: max(x, 0);
    relu2: its square.
    """
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return float32(_ACTIVATIONS[activation](x))


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def xielu(x: Array, *, positive: float, negative: float, beta: float, epsilon: float) -> Floats:
    wide = float32(x).astype(np.float64)
    below = (np.expm1(np.minimum(wide, epsilon)) - wide) * negative
    result: Floats = (np.where(wide > 0, positive * wide * wide, below) + beta * wide).astype(np.float32)
    return result


def scale(x: Array, *, factor: float) -> Floats:
    return float32(x) * np.float32(factor)


def soft_cap(x: Array, *, cap: float) -> Floats:
    capped: Floats = np.float32(cap) * np.tanh(float32(x) / np.float32(cap))
    return capped


def add_rows(x: Array, residual: Array, *, factor: float) -> Floats:
    return float32(residual) + float32(x) * np.float32(factor)


def gate(gate: Array, up: Array, *, activation: str) -> Floats:
    """activation(gate) * up."""
    return activated(gate, activation=activation) * float32(up)


def added(product: Floats, bias: Array | None, residual: Array | None) -> Floats:
    """residual + (product + bias), whatever there is of it."""
    result = product if bias is None else product + float32(bias)
    return result if residual is None else float32(residual) + result


def float32(x: Array) -> Floats:
    return x.astype(np.float32, copy=False)

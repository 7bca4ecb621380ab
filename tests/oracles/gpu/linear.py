"""NumPy references, in float64, of the cuda target's plain products and of the functions of rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
_ERF = np.vectorize(math.erf, otypes=[np.float64])


def activation(x: Array, name: str) -> Doubles:
    """By the names of docs/formats/operators.md."""
    wide = x.astype(np.float64)
    if name == "silu":
        return np.asarray(wide / (1.0 + np.exp(-wide)))
    if name == "gelu":
        return np.asarray(wide / 2 * (1.0 + _ERF(wide / math.sqrt(2.0))))
    if name == "gelu_tanh":
        return np.asarray(wide / 2 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (wide + 0.044715 * wide**3))))
    positive = np.maximum(wide, 0.0)
    return np.asarray(positive**2 if name == "relu2" else positive)


def layer_norm(x: Array, weight: Array, bias: Array | None, *, epsilon: float) -> Doubles:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis."""
    rows = x.astype(np.float64)
    distance = rows - rows.mean(axis=-1, keepdims=True)
    normal = distance / np.sqrt(np.mean(distance**2, axis=-1, keepdims=True) + epsilon) * weight.astype(np.float64)
    return np.asarray(normal if bias is None else normal + bias.astype(np.float64))


def linear(x: Array, weight: Array, bias: Array | None = None) -> Doubles:
    """x [rows, k] times weight [n, k], and a bias [n]."""
    product = x.astype(np.float64) @ weight.astype(np.float64).T
    return np.asarray(product if bias is None else product + bias.astype(np.float64))

"""NumPy references of the fused operators of mixtures of experts, row by row (see fused_operators.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.oracles.fused_floats import Floats, added, float32, gated_linear, linear

Array = npt.NDArray[Any]


def experts(
    x: Array,
    fc: Array,
    proj: Array,
    logits: Array,
    residual: Array | None = None,
    *,
    top_k: int,
    routing: str,
    epsilon: float,
    activation: str,
) -> tuple[Floats, Array]:
    """fc [experts, 2 I, H] has what multiplies the activated branch first. The second result is no memory at all."""
    y = np.zeros((len(x), proj.shape[1]), np.float32)
    for row, values in enumerate(logits):
        chosen, weights = routed(values, top_k, routing, epsilon)
        for expert, weight in zip(chosen, weights, strict=True):
            up, gate = np.split(fc[expert], 2)
            inner = gated_linear(x[row : row + 1], gate, up, activation=activation).astype(x.dtype)
            y[row] += np.float32(weight) * linear(inner, proj[expert])[0]
    return added(y, None, residual), np.zeros((len(x), 0), np.uint8)


def routed(logits: Array, top_k: int, routing: str, epsilon: float) -> tuple[list[int], list[float]]:
    """Experts of one row and their weights; of equal logits the lower number comes first."""
    values = logits.astype(np.float64)
    chosen = sorted(range(len(values)), key=lambda expert: (-values[expert], expert))[:top_k]
    if routing == "sparse_mixer":
        weights, left = [], values.copy()
        for expert in chosen:
            greatest = left[expert]
            scale = np.maximum(np.abs(values), greatest)
            near = ~((greatest - values) / scale > 2 * epsilon) & np.isfinite(left)
            weights.append(float(1 / np.exp(left[near] - greatest).sum()))
            left[expert] = -np.inf
        return chosen, weights
    shares = np.exp(values - values.max())
    total = shares[chosen].sum() if routing == "renormalized" else shares.sum()
    return chosen, [float(shares[expert] / total) for expert in chosen]


def gate_whole_rows(x: Array, gates: Array) -> Floats:
    shares: Floats = float32(x) / (1 + np.exp(-float32(gates)))
    return shares

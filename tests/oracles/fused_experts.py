"""NumPy references of the fused operators of mixtures of experts, row by row (see fused_operators.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.oracles.fused_floats import Floats, activated, added, float32, gated_linear, linear
from tests.oracles.fused_quantized import quantize_rows, quantized_linear

Array = npt.NDArray[Any]


class Router(NamedTuple):
    """How experts are chosen and weighed; `bias` [experts] counts in the choice alone."""

    top_k: int
    routing: str
    epsilon: float
    scale: float
    bias: Array | None
    groups: int = 1
    top_groups: int = 1


def experts(
    x: Array,
    fc: Array,
    proj: Array,
    logits: Array,
    residual: Array | None = None,
    fc_bias: Array | None = None,
    proj_bias: Array | None = None,
    choice_bias: Array | None = None,
    *,
    top_k: int,
    routing: str,
    epsilon: float,
    scale: float,
    activation: str,
    groups: int = 1,
    top_groups: int = 1,
) -> tuple[Floats, Array]:
    """fc [experts, 2 I, H] has what multiplies the activated branch first. The second result is no memory at all."""

    def expert(number: int, row: int, factor: float) -> Floats:
        up, gate = np.split(fc[number], 2)
        gate_bias, up_bias = _halves(fc_bias, number)
        rows = (float32(x[row : row + 1]) * np.float32(factor)).astype(x.dtype)
        if activation == "clamped_swiglu":
            inner = clamped_swiglu(linear(rows, gate, gate_bias), linear(rows, up, up_bias)).astype(x.dtype)
        else:
            inner = gated_linear(rows, gate, up, gate_bias, up_bias, activation=activation).astype(x.dtype)
        found: Floats = linear(inner, proj[number], None if proj_bias is None else proj_bias[number])[0]
        return found

    y = _mixed(expert, logits, proj.shape[1], Router(top_k, routing, epsilon, scale, choice_bias, groups, top_groups))
    return added(y, None, residual), np.zeros((len(x), 0), np.uint8)


def quantized_experts(
    x: Array,
    x_scale: Array,
    fc: Array,
    fc_scale: Array,
    proj: Array,
    proj_scale: Array,
    logits: Array,
    residual: Array | None = None,
    fc_bias: Array | None = None,
    proj_bias: Array | None = None,
    fc_zero: Array | None = None,
    proj_zero: Array | None = None,
    fc_codebook: Array | None = None,
    proj_codebook: Array | None = None,
    fc_unit: Array | None = None,
    proj_unit: Array | None = None,
    choice_bias: Array | None = None,
    *,
    top_k: int,
    routing: str,
    epsilon: float,
    scale: float,
    activation: str,
    group_size: int,
    inner_group_size: int,
    rows: Any,
    experts: int,
    groups: int = 1,
    top_groups: int = 1,
) -> tuple[Floats, Array]:
    """As `experts`, of levels fc [experts * 2 I, H] and proj [experts * H, I] with their scales: what is between the
    two products is rounded to `rows`.
    """

    def expert(number: int, row: int, factor: float) -> Floats:
        def own(value: Array) -> Array:
            return np.split(value, experts)[number]

        (up, gate), (up_scale, gate_scale) = np.split(own(fc), 2), np.split(own(fc_scale), 2)
        zeros = _halves(None if fc_zero is None else np.stack(np.split(fc_zero, experts)), number)
        given = (x[row : row + 1], x_scale[row : row + 1] * np.float32(factor))
        biases = _halves(fc_bias, number)
        outer: dict[str, Any] = {"codebook": fc_codebook, "group_size": group_size}
        gates, ups = (
            quantized_linear(*given, weight, of_weight, bias, zero, **outer)
            for weight, of_weight, bias, zero in (
                (gate, gate_scale, biases[0], zeros[0]),
                (up, up_scale, biases[1], zeros[1]),
            )
        )
        clamped = activation == "clamped_swiglu"
        inner = clamped_swiglu(gates, ups) if clamped else activated(gates, activation=activation) * ups
        levels, scale = quantize_rows(inner, type=rows)
        bias = None if proj_bias is None else proj_bias[number]
        zero = None if proj_zero is None else own(proj_zero)
        found: Floats = quantized_linear(
            *(levels, scale, own(proj), own(proj_scale), bias, zero, None, proj_codebook),
            group_size=inner_group_size,
        )[0]
        return found

    y = _mixed(
        expert, logits, len(proj) // experts, Router(top_k, routing, epsilon, scale, choice_bias, groups, top_groups)
    )
    return added(y, None, residual), np.zeros((len(x), 0), np.uint8)


def clamped_swiglu(gate: Array, up: Array) -> Floats:
    """(u + 1) g / (1 + exp(-1.702 g)), with g at most 7 and u within -7 .. 7."""
    g, u = np.minimum(gate.astype(np.float64), 7), np.clip(up.astype(np.float64), -7, 7)
    return float32((u + 1) * g / (1 + np.exp(-1.702 * g)))


def _halves(values: Array | None, number: int) -> tuple[Array | None, Array | None]:
    """What an expert has for its activated branch, and for the other."""
    if values is None:
        return None, None
    up, gate = np.split(values[number], 2)
    return gate, up


def _mixed(expert: Callable[[int, int, float], Floats], logits: Array, hidden: int, router: Router) -> Floats:
    """Of each row the weighted sum of what `expert` makes of it; or the sum of what it makes of the weighted row."""
    y, inputs = np.zeros((len(logits), hidden), np.float32), router.routing == "sigmoid_inputs"
    for row, values in enumerate(logits):
        for number, weight in zip(*routed(values, router), strict=True):
            y[row] += np.float32(1 if inputs else weight) * expert(number, row, weight if inputs else 1)
    return y


def routed(logits: Array, router: Router) -> tuple[list[int], list[float]]:
    """Experts of one row and their weights; of equal logits the lower number comes first."""
    top_k, routing, epsilon, scale, bias, *_ = router
    values = logits.astype(np.float64)
    if bias is not None:
        shares = np.exp(values - values.max())
        scores = 1 / (1 + np.exp(-values)) if routing == "biased_sigmoid" else shares / shares.sum()
        together = scores.astype(np.float32) + bias.astype(np.float32)
        chosen = sorted(_open(together, router, 2), key=lambda expert: (-together[expert], expert))[:top_k]
        return chosen, [float(scores[e] * scale / max(scores[chosen].sum(), epsilon)) for e in chosen]
    chosen = sorted(_open(values, router, 1), key=lambda expert: (-values[expert], expert))[:top_k]
    if routing == "sparse_mixer":
        weights, left = [], values.copy()
        for expert in chosen:
            greatest = left[expert]
            magnitude = np.maximum(np.abs(values), greatest)
            near = ~((greatest - values) / magnitude > 2 * epsilon) & np.isfinite(left)
            weights.append(float(1 / np.exp(left[near] - greatest).sum()))
            left[expert] = -np.inf
        return chosen, weights
    if routing == "sigmoid_inputs":
        return chosen, [float(1 / (1 + np.exp(-values[expert]))) for expert in chosen]
    shares = np.exp(values - values.max())
    total = shares[chosen].sum() if routing == "renormalized" else shares.sum()
    return chosen, [float(shares[expert] / total * scale) for expert in chosen]


def _open(scores: Array, router: Router, counted: int) -> list[int]:
    """Experts of the groups whose greatest scores, so many of each, have the greatest sums."""
    members = np.split(np.arange(len(scores)), router.groups)
    sums = [np.sort(scores[group])[::-1][:counted].sum() for group in members]
    best = sorted(range(len(members)), key=lambda group: (-sums[group], group))[: router.top_groups]
    return [int(expert) for group in best for expert in members[group]]


def gate_whole_rows(x: Array, gates: Array) -> Floats:
    shares: Floats = float32(x) / (1 + np.exp(-float32(gates)))
    return shares

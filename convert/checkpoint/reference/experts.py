"""What a mixture of experts means, in NumPy: which experts a token meets, and with which weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.expert_stacks import Stack
from inflight.convert.checkpoint.model_spec import CLAMP_LIMIT, CLAMP_SLOPE, SCORED_BY, ExpertsSpec

Array = npt.NDArray[Any]


class ExpertMatrices(NamedTuple):
    """Of all experts: fc (2 size, hidden), what multiplies the activated branch first; proj (hidden, size); `biases` of
    both, [count, out], if they have some. `rounded` is what becomes of the rows in front of a module's matrix of an
    expert.
    """

    fc: Stack
    proj: Stack
    biases: tuple[Array, Array] | None
    rounded: Callable[[Array, str, int], Array]


def mix_experts(
    spec: ExpertsSpec,
    routed: tuple[Array, Array],
    x: Array,
    experts: ExpertMatrices,
    gated: Callable[[Array, Array], Array],
) -> Array:
    """The weighted sum [tokens, hidden] of what each token's experts make of its row of x [tokens, hidden].

    `routed` is what `route` gives; `gated` makes the rows between the products of a gate and what multiplies
    it. Matrices may be mapped: those of experts that no token meets are not read.
    """
    chosen, weights = routed
    result = np.zeros_like(x)
    for expert in np.unique(chosen).tolist():
        tokens, places = np.nonzero(chosen == expert)
        fc_bias, proj_bias = (0, 0) if experts.biases is None else (each[expert] for each in experts.biases)
        met, weighed = x[tokens], weights[tokens, places, None]
        if spec.routing == "sigmoid_inputs":
            met, weighed = met * weighed, np.ones_like(weighed)
        rows = experts.rounded(met, "mlp.fc", expert)
        up, gate = np.split(rows @ experts.fc[expert].astype(x.dtype).T + fc_bias, 2, axis=-1)
        inner = experts.rounded(gated(gate, up), "mlp.proj", expert)
        result[tokens] += weighed * (inner @ experts.proj[expert].astype(x.dtype).T + proj_bias)
    return result


def clamped_swiglu(gate: Array, up: Array) -> Array:
    """(u + 1) g sigmoid(1.702 g), with g = min(gate, 7) and u = up within -7 .. 7."""
    gate, up = np.minimum(gate, CLAMP_LIMIT), np.clip(up, -CLAMP_LIMIT, CLAMP_LIMIT)
    return np.asarray((up + 1) * gate / (1 + np.exp(-CLAMP_SLOPE * gate)))


def route(spec: ExpertsSpec, logits: Array, bias: Array | None) -> tuple[Array, Array]:
    """Numbers of the experts of each token [tokens, top_k], and their weights, of router logits [tokens, count] and the
    bias [count] that counts in the choice alone, if there is one.
    """
    if bias is not None:
        return _biased(spec, logits, bias)
    if spec.routing == "sparse_mixer":
        return _sparse_mixer(logits, spec.epsilon)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    # Stable, so that of equal logits the lower number comes first.
    chosen = np.argsort(-_in_top_groups(spec, logits), axis=-1, kind="stable")[:, : spec.top_k]
    if spec.routing == "sigmoid_inputs":
        return chosen, 1.0 / (1.0 + np.exp(-np.take_along_axis(logits, chosen, axis=-1)))
    weights = np.take_along_axis(shares, chosen, axis=-1)
    total = weights if spec.routing == "renormalized" else shares
    return chosen, weights / total.sum(axis=-1, keepdims=True) * spec.scale


def _in_top_groups(spec: ExpertsSpec, scores: Array) -> Array:
    """The scores [tokens, count], those of other groups minus infinity."""
    if spec.groups == 1:
        return scores
    grouped = scores.reshape(len(scores), spec.groups, -1)
    counted = SCORED_BY if spec.biased_choice else 1
    of_groups = np.sort(grouped, axis=-1)[..., -counted:].sum(axis=-1)
    chosen = np.argsort(-of_groups, axis=-1, kind="stable")[:, : spec.top_groups]
    allowed = np.zeros_like(of_groups, bool)
    np.put_along_axis(allowed, chosen, True, axis=-1)
    return np.asarray(np.where(allowed[..., None], grouped, -np.inf).reshape(scores.shape))


def _biased(spec: ExpertsSpec, logits: Array, bias: Array) -> tuple[Array, Array]:
    if spec.routing == "biased_sigmoid":
        scores = 1.0 / (1.0 + np.exp(-logits))
    else:
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores = shares / shares.sum(axis=-1, keepdims=True)
    chosen = np.argsort(-_in_top_groups(spec, scores + bias), axis=-1, kind="stable")[:, : spec.top_k]
    weights = np.take_along_axis(scores, chosen, axis=-1)
    return chosen, weights * spec.scale / np.maximum(weights.sum(axis=-1, keepdims=True), spec.epsilon)


def _sparse_mixer(logits: Array, epsilon: float) -> tuple[Array, Array]:
    """Two experts, the second as if the first were not there (Liu et al., 2024, at inference)."""
    left, chosen, weights = logits.copy(), [], []
    for _ in range(2):
        first = left.argmax(axis=-1)[:, None]
        greatest = np.take_along_axis(left, first, axis=-1)
        far = (greatest - logits) / np.maximum(np.abs(logits), greatest) > 2 * epsilon
        shares = np.where(far, 0.0, np.exp(left - greatest))
        chosen.append(first)
        weights.append(np.take_along_axis(shares, first, axis=-1) / shares.sum(axis=-1, keepdims=True))
        np.put_along_axis(left, first, -np.inf, axis=-1)
    return np.concatenate(chosen, axis=-1), np.concatenate(weights, axis=-1)

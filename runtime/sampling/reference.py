"""The definition of sampling, in NumPy: what the CPU target's sampling.h computes, bit for bit, here by a full sort.

Tokens are ordered by logit, the lower id first among equals. Softmax weights are rounded to multiples of 2^-32, so
their sums are exact in float64 and do not depend on an order of summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.runtime.sampling.watermark import is_favoured
from inflight.runtime.scheduler.step import RowSampling, TokenResult

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Ids: TypeAlias = npt.NDArray[np.int64]

_GRID = 2.0**20  # adding it to a float64 in [0, 1] rounds to a multiple of 2^-32
_LARGEST = np.finfo(np.float32).max
_ROUNDS, _MASK = 10, 0xFFFFFFFF


def sample_row(
    logits: Floats,
    sampling: RowSampling,
    position: int,
    history: Sequence[int] = (),
    prompt_length: int = 0,
    banned: Sequence[int] = (),
    allowed: bytes | None = None,
    previous: int = 0,
) -> TokenResult:
    """Choose a token from float32 logits [V].

    `history` is prompt then output, needed when a penalty is on. `allowed` has a bit for each token, as in
    ScheduledSequence. `previous` is the token behind which one is chosen, needed for a watermark. The draw is keyed by
    (sampling.seed, position).
    """
    possible = _sane(logits)
    if allowed is not None:
        bits = np.unpackbits(np.frombuffer(allowed, np.uint8), bitorder="little", count=len(possible))
        possible = np.where(bits == 1, possible, np.float32(-np.inf))
    adjusted = _adjust(possible, sampling, history, prompt_length, banned, previous)
    return score_row(logits, _choose(adjusted, sampling, position), sampling.num_logprobs)


def score_row(logits: Floats, token_id: int, num_logprobs: int) -> TokenResult:
    """The log probability and rank of a given token under float32 logits [V], with the `num_logprobs` most likely."""
    if num_logprobs < 0:
        return TokenResult(token_id)
    row = _sane(logits)
    greatest = row.max()
    if np.isneginf(greatest):
        logprobs = np.full_like(row, -np.inf)
    else:
        log_sum = np.log(_weights(row, np.float32(1.0)).sum())
        logprobs = (row.astype(np.float64) - float(greatest) - log_sum).astype(np.float32)
    top = tuple((int(i), float(logprobs[i])) for i in _order(row)[:num_logprobs])
    before = (row > row[token_id]).sum() + (row[:token_id] == row[token_id]).sum()
    return TokenResult(token_id, float(logprobs[token_id]), 1 + int(before), top)


def philox_uniform(seed: int, position: int) -> float:
    """Philox4x32-10 (Salmon et al., SC 2011) with key `seed` and counter `position`: 53 bits in [0, 1)."""
    low, high, *_ = philox_4x32_10((position & _MASK, position >> 32, 0, 0), (seed & _MASK, seed >> 32))
    return ((high << 32 | low) >> 11) * 2.0**-53


def philox_4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random 32-bit words for a 128-bit counter and a 64-bit key, least significant words first."""
    key_low, key_high = key
    for _ in range(_ROUNDS):
        even, odd = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        first, third = odd >> 32 ^ counter[1] ^ key_low, even >> 32 ^ counter[3] ^ key_high
        counter = (first, odd & _MASK, third, even & _MASK)
        key_low, key_high = key_low + 0x9E3779B9 & _MASK, key_high + 0xBB67AE85 & _MASK
    return counter


def _sane(logits: Floats) -> Floats:
    """NaN counts as -inf, +inf as the largest float, -0 as 0."""
    number = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    return np.minimum(number, _LARGEST).astype(np.float32) + np.float32(0.0)


def _adjust(
    row: Floats,
    sampling: RowSampling,
    history: Sequence[int],
    prompt_length: int,
    banned: Sequence[int],
    previous: int,
) -> Floats:
    for token_id, bias in sampling.bias:
        row[token_id] = _sane(row[token_id] + np.float32(bias))
    row[list(banned)] = -np.inf
    if sampling.watermark_delta > 0:
        favoured = is_favoured(np.asarray(previous), np.arange(len(row)), sampling.watermark_gamma)
        row += np.where(favoured, np.float32(sampling.watermark_delta), np.float32(0.0))
    if sampling.needs_history:
        seen = np.unique(np.asarray(history, np.int64))
        counts = np.bincount(np.asarray(history[prompt_length:], np.int64), minlength=len(row))[seen]
        value: Floats = row[seen]
        repetition = np.float32(sampling.repetition_penalty)
        with np.errstate(over="ignore"):
            value = np.where(value > 0, value / repetition, value * repetition)
        value -= np.float32(sampling.frequency_penalty) * counts.astype(np.float32)
        value -= np.where(counts > 0, np.float32(sampling.presence_penalty), np.float32(0.0))
        row[seen] = _sane(value)
    return row


def kept_tokens(row: Floats, sampling: RowSampling) -> tuple[Ids, Doubles]:
    """The tokens among which adjusted float32 logits [V] leave the choice, ascending, and the weights of all [V].

    The temperature is above 0, and some logit is above -inf.
    """
    temperature = np.float32(sampling.temperature)
    if sampling.top_n_sigma > 0:
        row = _without_far(row, np.float32(sampling.top_n_sigma))
    weights = _weights(row, temperature)
    order = _order(row)
    if 0 < sampling.top_k < len(row):
        order = order[: sampling.top_k]
    if sampling.top_p < 1:
        limit = float(np.float32(sampling.top_p)) * weights[order].sum()
        before = np.cumsum(weights[order]) - weights[order]
        order = order[before < limit]
    kept = np.sort(order[(weights[order] > 0) & (weights[order] >= np.float32(sampling.min_p))])
    if sampling.typical_p < 1:
        kept = _typical(kept, weights, _exponents(row, temperature), np.float32(sampling.typical_p))
    return kept, weights


def _without_far(row: Floats, number: np.float32) -> Floats:
    """Top-n sigma (Tang et al. 2024): logits more than `number` standard deviations below the greatest become -inf.

    As in llama.cpp, logits of -inf do not count, and the deviation is that of a population.
    """
    counted = row > -np.inf
    values = np.where(counted, row, 0).astype(np.float64)
    mean = _lane_sum(values) / counted.sum()
    deviations = np.where(counted, values - mean, 0.0)
    sigma = np.sqrt(_lane_sum(deviations * deviations) / counted.sum())
    least = float(row.max()) - float(number) * float(sigma)
    return np.where(row.astype(np.float64) < least, np.float32(-np.inf), row)


def _lane_sum(values: Doubles) -> float:
    """Values [V] summed in the order of the CPU target: in 16 lanes one after the other, then over the lanes."""
    lanes = np.pad(values, (0, -len(values) % 16)).reshape(-1, 16)
    return float(np.cumsum(np.cumsum(lanes, axis=0)[-1])[-1])


def _typical(kept: Ids, weights: Doubles, exponents: Floats, mass: np.float32) -> Ids:
    """Locally typical sampling (Meister et al. 2022), with the ties of transformers' TypicalLogitsWarper.

    An exponent is log p and a constant, so that |surprise - entropy| is the distance of an exponent from their mean.
    """
    surprise, weight = -exponents[kept].astype(np.float64), weights[kept]
    total = weight.sum()
    distance = np.abs(surprise - _on_grid(weight * surprise).sum() / total).astype(np.float32)
    order = np.argsort(distance, kind="stable")
    last = np.searchsorted(np.cumsum(weight[order]), float(mass) * total, side="left")
    nearest: Ids = kept[distance <= distance[order[last]]]
    return nearest


def _choose(row: Floats, sampling: RowSampling, position: int) -> int:
    first = int(np.argmax(row))
    if sampling.temperature <= 0 or np.isneginf(row[first]):
        return first
    kept, weights = kept_tokens(row, sampling)
    cumulative = np.cumsum(weights[kept])
    target = min(philox_uniform(sampling.seed, position) * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    return int(kept[np.searchsorted(cumulative, target, side="right")])


def _order(row: Floats) -> Ids:
    """Token ids by falling logit, the lower id first among equals."""
    return np.argsort(-row, kind="stable")


def _weights(row: Floats, temperature: np.float32) -> Doubles:
    """exp((row - max) / temperature) on the grid of 2^-32; the greatest weight is exactly 1."""
    return _on_grid(_exp(_exponents(row, temperature)).astype(np.float64))


def _on_grid(values: Doubles) -> Doubles:
    """Values from 0 to 1 at the nearest multiples of 2^-32; sums of up to 2^20 of them are exact."""
    return (values + _GRID) - _GRID


def _exponents(row: Floats, temperature: np.float32) -> Floats:
    with np.errstate(over="ignore"):
        exponents: Floats = (row - row.max()) / temperature
    return np.maximum(exponents, np.float32(-24.0))


def _exp(x: Floats) -> Floats:
    """exp for x in [-24, 0]: x = n ln 2 + r, and the Taylor polynomial of degree 7 in r. float32, no fused adds."""
    f = np.float32
    n = np.rint(x * f(1.44269504))
    r = (x - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = np.full_like(x, f(1.0) / f(5040.0))
    for coefficient in (f(1) / f(720), f(1) / f(120), f(1) / f(24), f(1) / f(6), f(0.5), f(1), f(1)):
        p = p * r + coefficient
    return np.ldexp(p, n.astype(np.int32))

"""What becomes of the hidden states of one text: the modules of sentence-transformers behind its Transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import PoolingFacts
from inflight.runtime.pooling.dense import Dense, Wide

Floats: TypeAlias = npt.NDArray[np.float32]

# torch.nn.functional.normalize divides by at least this.
_SHORTEST = 1e-12


def pooled(states: Floats, facts: PoolingFacts, dense: Sequence[Dense] = ()) -> Floats:
    """states [rows of a text, size] -> float32 [vector_size]: a vector, or the raw scores of a pair.

    Sums are in float64, so that they depend on nothing but the rows, in their order; so are the products of `dense`.
    """
    vector = _of_rows(states, facts)
    for product in dense:
        vector = product(vector)
    return normalized(vector) if facts.normalize else np.asarray(vector, np.float32)


def of_tokens(states: Floats, facts: PoolingFacts, dense: Sequence[Dense] = ()) -> Floats:
    """states [rows of a text, size] -> float32 [rows, vector_size]: of each row what `pooled` makes of a pooled one."""
    if not dense and not facts.normalize:
        return np.asarray(states, np.float32)
    made = []
    for row in states:
        vector: Wide = row.astype(np.float64)
        for product in dense:
            vector = product(vector)
        made.append(normalized(vector) if facts.normalize else np.asarray(vector, np.float32))
    return np.stack(made)


def _of_rows(states: Floats, facts: PoolingFacts) -> Wide:
    if facts.pooling == "mean":
        return np.asarray(states.mean(axis=0, dtype=np.float64))
    if facts.pooling == "mean_sqrt_len":
        return np.asarray(states.sum(axis=0, dtype=np.float64) / math.sqrt(len(states)))
    if facts.pooling == "weighted_mean":
        weights = np.arange(1, len(states) + 1, dtype=np.float64)
        return np.asarray(weights @ states.astype(np.float64) / weights.sum())
    # Of "cls" and "last" there is one row.
    return np.asarray(states.max(axis=0), np.float64)


def as_normalized(facts: PoolingFacts, normalize: bool | None) -> PoolingFacts:
    """`facts` with vectors of length 1 or not; None: as the model has them."""
    return facts if normalize is None else msgspec.structs.replace(facts, normalize=normalize)


def classified(raw: Sequence[float], facts: PoolingFacts) -> list[float]:
    """A classifier's raw numbers as the model means them: each on its own, or as shares of all."""
    if facts.activation != "softmax":
        return [activated(score, facts) for score in raw]
    return softmax(raw)


def softmax(raw: Sequence[float]) -> list[float]:
    """The shares of numbers of all of them."""
    greatest = max(raw)
    powers = [math.exp(score - greatest) for score in raw]
    whole = math.fsum(powers)
    return [power / whole for power in powers]


def activated(score: float, facts: PoolingFacts) -> float:
    """A raw score as the model means it: as it is, or between 0 and 1."""
    if facts.activation == "identity":
        return score
    share = math.exp(-abs(score))
    return (1.0 if score >= 0 else share) / (1.0 + share)


def normalized(vector: npt.NDArray[np.floating[Any]]) -> Floats:
    """The vector with length 1, float32; zeros stay zeros."""
    wide = vector.astype(np.float64)
    return np.asarray(wide / max(float(np.sqrt(np.sum(wide * wide))), _SHORTEST), np.float32)


def shortened(vector: Floats, dimensions: int, facts: PoolingFacts) -> Floats:
    """The first `dimensions` numbers (Kusupati et al., 2022, Matryoshka representation learning), with length 1 again
    where the model's vectors have it. Of a matrix, those of each row."""
    if vector.ndim > 1:
        return np.stack([shortened(row, dimensions, facts) for row in vector])
    cut = vector[:dimensions]
    return normalized(cut) if facts.normalize else cut


def cosine(first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]]) -> float:
    """Of the angle between two vectors; 0 where one is zeros."""
    return float(np.dot(normalized(first).astype(np.float64), normalized(second)))

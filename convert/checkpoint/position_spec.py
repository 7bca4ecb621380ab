"""What positions do to attention beside rotation: which of them a row sees, and what is added to scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sight:
    """What a row sees: positions up to its own, or with `causal` False all of its sequence; of these the last `window`,
    its own included (without `causal` as many on the other side); or those of its own chunk of `chunk` positions.
    """

    causal: bool = True
    window: int | None = None
    chunk: int | None = None

    def mask(self, count: int) -> Array:
        """bool [count, count]: whether a row sees a position of a sequence of so many."""
        rows, keys = np.arange(count)[:, None], np.arange(count)[None, :]
        visible = (keys <= rows) | (not self.causal)
        if self.window is not None:
            visible &= np.abs(rows - keys) < self.window
        if self.chunk is not None:
            visible &= rows // self.chunk == keys // self.chunk
        return visible


@dataclass(frozen=True, slots=True)
class QueryScaleSpec:
    """A query at position p is multiplied by 1 + factor * log(1 + floor((p + first) / length)): Nakanishi (2025), as
    Llama 4 and Ministral 3 have it.
    """

    factor: float
    length: int
    first: int = 0

    def table(self, count: int) -> Array:
        """float64 [count]: that of each position."""
        return np.asarray(1 + self.factor * np.log1p((np.arange(count) + self.first) // self.length))


@dataclass(frozen=True, slots=True)
class SlopesSpec:
    """Attention with linear biases (Press et al., 2022): slopes[head] times (key's position - query's) is added to a
    score, or with `both_ways`, where keys behind a query count too, slopes[head] times less their distance. `rounded`:
    slopes, and slopes times the key's position, are bfloat16, which the scale of attention multiplies as it does
    products; that of the query, which changes no share, is left out.
    """

    slopes: tuple[float, ...]
    rounded: bool = False
    both_ways: bool = False


@dataclass(frozen=True, slots=True)
class BucketsSpec:
    """Each head has a number for every bucket of distances (Raffel et al., 2020), which is added to a score. A stored
    table, [buckets, heads], has them. Of key - query, the upper half of the buckets are for those
    above 0; of each half, one half is for a distance each, the other for distances up to `furthest`, in logarithmic
    steps, and those beyond. `layer`: whose own table it is; None: all layers share it.
    """

    buckets: int
    furthest: int
    layer: int | None = None


PositionBias = SlopesSpec | BucketsSpec


@dataclass(frozen=True, slots=True)
class DisentangledSpec:
    """Disentangled attention (He et al., 2021): a score has a product more of the query with a row for the distance of
    query and key, and one of the key with another row. A stored stack of the layer, [2 heads, 2 span, head size], has
    both rows of all heads, first those that queries meet. With `furthest`, distances from half of `span` on have
    logarithmic buckets, of which the last begins at `furthest`; those beyond `span` have the last row.
    """

    span: int
    furthest: int | None

    def columns(self, distances: Array) -> npt.NDArray[np.int64]:
        """The row for each distance query - key, 0 .. 2 span - 1. Logarithms are float32, as transformers has them."""
        found = np.asarray(distances, np.int64)
        if self.furthest is not None:
            half, far = self.span // 2, np.abs(found)
            shares = (np.maximum(far, half) / half).astype(np.float32)
            steps = np.log(shares) / np.log(np.float32((self.furthest - 1) / half)) * np.float32(half - 1)
            buckets = np.ceil(steps).astype(np.int64) + half
            found = np.where(far <= half, found, np.sign(found) * buckets)
        return np.clip(found + self.span, 0, 2 * self.span - 1)


@dataclass(frozen=True, slots=True)
class BiasTable:
    """float32 [heads, width]. What is added to the score of a key at position k for a query at position p is in column
    k - p + origin, or where `origin` is None in column k.
    """

    values: Array
    origin: int | None


def linear_slopes(num_heads: int, steepest: float = 8.0) -> tuple[float, ...]:
    """Of the least power of two of heads that is no less than `num_heads`, 2^(-steepest i / power) for i from 1 on;
    where there are fewer heads, every second one first.
    """
    power = 1 << (num_heads - 1).bit_length()
    slopes = [2.0 ** (-steepest * index / power) for index in range(1, power + 1)]
    return tuple(slopes if power == num_heads else [*slopes[1::2], *slopes[::2]][:num_heads])


def bias_table(bias: PositionBias, scale: float, length: int, stored: Array | None = None) -> BiasTable:
    """The table for sequences of up to `length` tokens. `stored` is that of BucketsSpec; `scale` that of attention."""
    if isinstance(bias, BucketsSpec):
        assert stored is not None, "buckets have numbers"
        distances = np.arange(1 - length, length)
        return BiasTable(stored.astype(np.float32)[_bucket(bias, distances)].T, length - 1)
    if bias.rounded:
        import ml_dtypes  # an extra, which no --help needs

        slopes = np.asarray(bias.slopes, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
        products = slopes[:, None] * np.arange(length, dtype=np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
        return BiasTable(products.astype(ml_dtypes.bfloat16).astype(np.float32) * np.float32(scale), None)
    distances = -np.abs(np.arange(1 - length, length)) if bias.both_ways else np.arange(1 - length, 1)
    table = np.asarray(bias.slopes)[:, None] * distances
    return BiasTable(table.astype(np.float32), length - 1)


def _bucket(bias: BucketsSpec, distances: Array) -> Array:
    """The bucket of each distance key - query."""
    half = bias.buckets // 2
    exact, far = half // 2, np.abs(distances)
    steps = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / math.log(bias.furthest / exact)
    logarithmic = exact + (steps.astype(np.float32) * np.float32(half - exact)).astype(np.int64)
    return np.asarray((distances > 0) * half + np.where(far < exact, far, np.minimum(logarithmic, half - 1)))

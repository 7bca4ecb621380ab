"""Inverse frequencies of the rotary embedding in float64, each kind as its paper has it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.model_spec import RopeSpec
from inflight.convert.checkpoint.rope import RotaryScaling

Array = npt.NDArray[Any]


def inverse_frequencies(rope: RopeSpec, length: int) -> Array:
    """float64 [dim / 2], for a sequence of `length` tokens: radians that each pair of elements turns by per position.

    Those of dynamic scaling are for a sequence within the model's own length.
    """
    frequencies: Array = rope.base ** -(np.arange(0, rope.dim, 2) / rope.dim)
    scaling = rope.scaling
    if scaling is None or scaling.rope_type == "dynamic":
        return frequencies
    if scaling.rope_type == "longrope":
        longest = scaling.longest_sequence
        factors = scaling.short_factor if longest is None or length <= longest else scaling.long_factor
        divided: Array = frequencies / np.asarray(factors)
        return divided
    kept = _kept(rope, scaling, frequencies)
    blended: Array = (1 - kept) * frequencies / scaling.factor + kept * frequencies
    return blended


def _kept(rope: RopeSpec, scaling: RotaryScaling, frequencies: Array) -> Array:
    """The share of each frequency that stays unscaled: 0 for long waves, 1 for short ones, a ramp between."""
    original = scaling.original_max_position_embeddings
    if scaling.rope_type == "linear" or original is None:
        return np.zeros_like(frequencies)
    if scaling.rope_type == "yarn":
        return _yarn_kept(rope, scaling, original)
    low, high = scaling.low_freq_factor or 0.0, scaling.high_freq_factor or 0.0
    return np.clip((original * frequencies / (2 * np.pi) - low) / (high - low), 0.0, 1.0)


def _yarn_kept(rope: RopeSpec, scaling: RotaryScaling, original: int) -> Array:
    """1 at the index of the frequency that turns beta_fast times within the original length, 0 at beta_slow times."""

    def index(turns: float) -> float:
        return rope.dim / 2 * math.log(original / (2 * math.pi * turns), rope.base)

    first, last = index(scaling.beta_fast or 32), index(scaling.beta_slow or 1)
    if scaling.truncate is not False:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.dim - 1)
    width = last - first or 0.001
    return 1 - np.clip((np.arange(rope.dim // 2) - first) / width, 0.0, 1.0)

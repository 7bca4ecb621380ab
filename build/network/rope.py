"""Tables of cosines and sines for rotary position embedding (Su et al., 2021), as transformers computes them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.model_spec import RopeSpec
from inflight.convert.checkpoint.rope import RotaryScaling

FloatArray = npt.NDArray[np.float32]


def rope_tables(rope: RopeSpec, max_seq_len: int) -> tuple[FloatArray, FloatArray]:
    """cos and sin, each float32 [max_seq_len, dim / 2]: the angle is position * inverse_frequency."""
    frequencies = _scaled(rope, max_seq_len)
    positions = np.arange(max_seq_len, dtype=np.float32)
    angles = positions[:, None] * frequencies[None, :]
    factor = 1.0 if rope.scaling is None else rope.scaling.table_factor
    return _in_float64(np.cos, angles, factor), _in_float64(np.sin, angles, factor)


def _in_float64(function: np.ufunc, angles: FloatArray, factor: float) -> FloatArray:
    # NumPy's float32 functions differ between CPU levels; rounding once from float64 gives the same bytes everywhere.
    return np.asarray(function(angles.astype(np.float64)) * factor, dtype=np.float32)


def _powers(rope: RopeSpec) -> FloatArray:
    # Base, exponent and power are rounded to float32 in turn, since transformers does so.
    exponents = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    return np.asarray(np.power(np.float64(np.float32(rope.base)), exponents.astype(np.float64)), dtype=np.float32)


def _scaled(rope: RopeSpec, max_seq_len: int) -> FloatArray:
    """Inverse frequencies; those of dynamic scaling are unscaled up to the model's own length, which bounds P."""
    scaling, powers = rope.scaling, _powers(rope)
    frequencies = np.asarray(np.float32(1.0) / powers, dtype=np.float32)
    if scaling is None or scaling.rope_type == "dynamic":
        return frequencies
    if scaling.rope_type == "linear":
        return frequencies / np.float32(scaling.factor)
    if scaling.rope_type == "longrope":
        return _longrope(powers, scaling, max_seq_len)
    return _yarn(rope, scaling, powers) if scaling.rope_type == "yarn" else _llama3(frequencies, scaling)


def _longrope(powers: FloatArray, scaling: RotaryScaling, max_seq_len: int) -> FloatArray:
    longest = scaling.longest_sequence
    assert longest is not None and max_seq_len <= longest, "the recipe refuses longer sequences"
    return np.asarray(np.float32(1.0) / (np.asarray(scaling.short_factor, np.float32) * powers), dtype=np.float32)


def _yarn(rope: RopeSpec, scaling: RotaryScaling, powers: FloatArray) -> FloatArray:
    """Frequencies that turn often are kept, those that turn seldom divided by the factor, with a ramp between."""
    low, high = (_turning_index(rope, scaling, turns) for turns in (scaling.beta_fast or 32, scaling.beta_slow or 1))
    if scaling.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    high += 0.001 if low == high else 0
    indices = np.arange(rope.dim // 2, dtype=np.float32)
    kept = np.float32(1) - np.clip((indices - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32)
    kept_frequencies = np.float32(1.0) / powers
    stretched = np.float32(1.0) / (np.float32(scaling.factor) * powers)
    return np.asarray(stretched * (np.float32(1) - kept) + kept_frequencies * kept, dtype=np.float32)


def _turning_index(rope: RopeSpec, scaling: RotaryScaling, turns: float) -> float:
    """Which frequency turns so often within the original length."""
    original = scaling.original_max_position_embeddings
    assert original is not None, "RotaryScaling checks it for yarn"
    return rope.dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.base))


def _llama3(frequencies: FloatArray, scaling: RotaryScaling) -> FloatArray:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    context = scaling.original_max_position_embeddings
    assert low is not None and high is not None and context is not None, "RotaryScaling checks them for llama3"
    stretched = frequencies / np.float32(scaling.factor)
    # Each step in float32, and a number divided by a tensor as the reciprocal times the number: torch's roundings.
    wavelengths = np.reciprocal(frequencies) * np.float32(2 * math.pi)
    smooth = (np.reciprocal(wavelengths) * np.float32(context) - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1) - smooth) * frequencies / np.float32(scaling.factor) + smooth * frequencies
    long, short = wavelengths > context / low, wavelengths < context / high
    return np.asarray(np.where(long, stretched, np.where(short, frequencies, blended)), dtype=np.float32)

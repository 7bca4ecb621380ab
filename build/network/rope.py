"""Tables of cosines and sines for rotary position embedding (Su et al., 2021), as transformers computes them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.rope import RotaryScaling

FloatArray = npt.NDArray[np.float32]


def rope_tables(
    head_size: int, base: float, scaling: RotaryScaling | None, max_seq_len: int
) -> tuple[FloatArray, FloatArray]:
    """cos and sin, each float32 [max_seq_len, head_size / 2]: the angle is position * inverse_frequency."""
    frequencies = _scaled(_inverse_frequencies(head_size, base), scaling)
    positions = np.arange(max_seq_len, dtype=np.float32)
    angles = positions[:, None] * frequencies[None, :]
    return _in_float64(np.cos, angles), _in_float64(np.sin, angles)


def _in_float64(function: np.ufunc, angles: FloatArray) -> FloatArray:
    # NumPy's float32 functions differ between CPU levels; rounding once from float64 gives the same bytes everywhere.
    return np.asarray(function(angles.astype(np.float64)), dtype=np.float32)


def _inverse_frequencies(head_size: int, base: float) -> FloatArray:
    # The exponent and the power are rounded to float32 in turn, since transformers does so.
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    powers = np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)
    return np.asarray(np.float32(1.0) / powers, dtype=np.float32)


def _scaled(frequencies: FloatArray, scaling: RotaryScaling | None) -> FloatArray:
    if scaling is None:
        return frequencies
    stretched = frequencies / np.float32(scaling.factor)
    if scaling.rope_type == "linear":
        return stretched
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    context = scaling.original_max_position_embeddings
    assert low is not None and high is not None and context is not None, "RotaryScaling checks them for llama3"
    # Each step in float32, and a number divided by a tensor as the reciprocal times the number: torch's roundings.
    wavelengths = np.reciprocal(frequencies) * np.float32(2 * math.pi)
    smooth = (np.reciprocal(wavelengths) * np.float32(context) - np.float32(low)) / np.float32(high - low)
    blended = (np.float32(1) - smooth) * frequencies / np.float32(scaling.factor) + smooth * frequencies
    long, short = wavelengths > context / low, wavelengths < context / high
    return np.asarray(np.where(long, stretched, np.where(short, frequencies, blended)), dtype=np.float32)

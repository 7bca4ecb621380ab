"""NumPy references, in float64, of the kernels of whole rows: RMSNorm, SwiGLU, and the scales of quantized rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

GREATEST = {"int8": 127.0, "float8": 448.0}


def rms_norm(x: Array, weight: Array, *, epsilon: float) -> Doubles:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis."""
    rows = x.astype(np.float64)
    mean_square = np.mean(np.square(rows), axis=-1, keepdims=True)
    return np.asarray(rows / np.sqrt(mean_square + epsilon) * weight.astype(np.float64))


def swiglu(gate_up: Array) -> Doubles:
    """silu(gate) * up of rows [rows, 2 width] that hold the gate's columns, then those of up."""
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=-1)
    return np.asarray(gate / (1.0 + np.exp(-gate)) * up)


def row_scales(rows: Doubles, levels: str) -> Doubles:
    """Greatest magnitude over that of `levels` ("int8" or "float8") for each row."""
    return np.asarray(np.max(np.abs(rows), axis=-1) / GREATEST[levels])

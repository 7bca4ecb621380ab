"""The one scale of all rows of a product, for rows that are rounded to 8-bit floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.round_to_nearest import FLOAT8_GREATEST
from inflight.convert.quantization.rows import RowRounding, rounded_rows

Floats = npt.NDArray[np.float32]

# Within an octave: four to a step of E4M3, so that values that nearly every row has can fall onto a level.
_TRIED = 32


def stored_row_scale(sample: Floats, greatest: float, power: Floats) -> float:
    """That scale for rows [count, K] like `sample` which changes the outputs least; `power` [K] is how much each input
    counts in them, the square of the weights' column.

    `greatest` is the greatest magnitude of all rows. It gets a level between half of what E4M3 holds and all of it: a
    binade costs nothing, since there are fourteen below, and rows of another text may be greater. Rows that are all
    zero have some scale.
    """
    least = (greatest or 1.0) / FLOAT8_GREATEST
    scales = [2 * least * 2 ** (-step / _TRIED) for step in range(_TRIED)]
    lost = [
        float(np.square(rounded_rows(sample, RowRounding("float8_e4m3fn", scale)) - sample).mean(axis=0) @ power)
        for scale in scales
    ]
    return scales[int(np.argmin(lost))]

"""What is measured for the rows of a product: SmoothQuant's factors, by which outliers are moved into the weights (Xiao
et al., 2023), where rounding to 8 bits bears them; and the one scale of all rows that are rounded to 8-bit floats.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.round_to_nearest import FLOAT8_GREATEST
from inflight.convert.quantization.rows import RowRounding, rounded_rows

Floats = npt.NDArray[np.float32]

_LEAST = np.float32(1e-5)
# Within an octave: four to a step of E4M3, so that values that nearly every row has can fall onto a level.
_TRIED = 32


def smoothing_factors(rows_greatest: Floats, weights_greatest: Floats, alpha: float) -> Floats:
    """What each input of a product is multiplied by, [K], from the greatest magnitudes of rows and weights there.

    `alpha` 0 leaves the weights as they are, 1 makes all inputs equally great. Inputs that never differ from zero keep
    a factor of 1.
    """
    rows, weights = np.maximum(rows_greatest, _LEAST), np.maximum(weights_greatest, _LEAST)
    factors = weights ** np.float32(1 - alpha) / rows ** np.float32(alpha)
    kept: Floats = np.where((rows_greatest > 0) & (weights_greatest > 0), factors, np.float32(1))
    return kept


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

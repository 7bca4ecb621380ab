"""SmoothQuant (Xiao et al., 2023): outliers of rows are moved into the weights, where rounding to 8 bits bears them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_LEAST = np.float32(1e-5)


def smoothing_factors(rows_greatest: Floats, weights_greatest: Floats, alpha: float) -> Floats:
    """What each input of a product is multiplied by, [K], from the greatest magnitudes of rows and weights there.

    `alpha` 0 leaves the weights as they are, 1 makes all inputs equally great. Inputs that never differ from zero keep
    a factor of 1.
    """
    rows, weights = np.maximum(rows_greatest, _LEAST), np.maximum(weights_greatest, _LEAST)
    factors = weights ** np.float32(1 - alpha) / rows ** np.float32(alpha)
    kept: Floats = np.where((rows_greatest > 0) & (weights_greatest > 0), factors, np.float32(1))
    return kept

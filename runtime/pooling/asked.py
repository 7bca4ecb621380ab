"""What becomes of the numbers of a text as a request's parameters have it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import PoolingFacts
from inflight.runtime.pooling.params import PoolingParams
from inflight.runtime.pooling.vectors import Floats, as_normalized, classified, shortened

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]


def as_asked(vector: Floats, params: PoolingParams, facts: PoolingFacts) -> Numbers:
    """[size], or [tokens, size] of single tokens: vectors in float32; scores in float64, as the API has them."""
    if facts.task != "embed":
        if params.use_activation is False:
            return vector.astype(np.float64)
        rows = [classified(row, facts) for row in np.atleast_2d(vector).tolist()]
        return np.array(rows if vector.ndim > 1 else rows[0])
    if params.dimensions is None:
        return vector
    return shortened(vector, params.dimensions, as_normalized(facts, params.normalize))

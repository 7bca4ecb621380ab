"""The matrix that rotates the heads of an int4 KV cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def hadamard_matrix(size: int) -> npt.NDArray[np.float32]:
    """float32 [size, size], symmetric and its own inverse: Hadamard matrices over the roots of their sizes along the
    diagonal, powers of two, the greatest that fit first (Ashkboos et al., QuaRot, 2024).
    """
    matrix = np.zeros((size, size), np.float32)
    start = 0
    while start < size:
        piece = 1 << (size - start).bit_length() - 1
        signs = [[(i & j).bit_count() % 2 for j in range(piece)] for i in range(piece)]
        matrix[start : start + piece, start : start + piece] = (1 - 2 * np.array(signs)) / np.sqrt(piece)
        start += piece
    return matrix

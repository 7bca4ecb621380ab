"""Stacks of experts as panels, one expert's behind another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def expert_pieces(stack: Array, gated: bool, panels: Callable[[list[Array]], Iterator[Array]]) -> Iterator[Array]:
    """The panels of each expert of [experts, out, in], made by `panels`; those of gated experts alternate what is
    activated, the second half of the outputs, and what multiplies it.
    """
    for matrix in stack:
        if gated:
            up, gate = np.split(matrix, 2)
            yield from panels([gate, up])
        else:
            yield from panels([matrix])

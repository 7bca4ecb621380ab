"""Stacks of experts as panels, one expert's behind another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_PANEL, _LANES = 64, 16


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


def quantized_expert_pieces(
    sources: Sequence[Array], experts: int, gated: bool, panels: Callable[..., Iterator[Array]]
) -> Iterator[Array]:
    """The same of quantized stacks: `sources` are levels [experts * out, in], their scales and, where there are some,
    zero points or units, all with experts * out rows. `panels` makes panels of matrices, and lists of what is beside
    them.
    """
    for expert in range(experts):
        rows = [source[_share(source, expert, experts)] for source in sources]
        halves = [np.split(each, 2)[::-1] if gated else [each] for each in rows]
        yield from panels(halves[0], halves[1:])


def _share(source: Array, expert: int, experts: int) -> slice:
    rows = len(source) // experts
    return slice(expert * rows, (expert + 1) * rows)


def expert_biases(biases: Array, gated: bool) -> Iterator[Array]:
    """float32 biases [experts, out] as wide as panels; of gated ones 16 of what is activated and 16 of the other in
    turn."""
    for bias in biases.astype(np.float32):
        rows = np.split(bias, 2)[::-1] if gated else [bias]
        width = _PANEL // len(rows)
        padded = [np.pad(row, (0, -len(row) % width)) for row in rows]
        yield np.stack([row.reshape(-1, _LANES) for row in padded], axis=1)

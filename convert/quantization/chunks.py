"""A planned tensor as the levels and scales of its rank file, chunk by chunk.

Whole rows of the source are quantized before they are cut, so that the ranks of a split checkpoint hold exact parts of
the one that is not split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from inflight.convert.plan import Piece, PlannedTensor
from inflight.convert.quantization.round_to_nearest import Array, Floats, Levels, pack_pairs, quantize
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.errors import ModelError

# float32 values that are worked on at once: few enough for the processor's cache.
_BLOCK_VALUES = 1 << 18


def quantized_chunks(
    tensor: PlannedTensor, quantization: WeightQuantization, read: Callable[[Piece], Iterator[Array]]
) -> Iterator[tuple[str, Array]]:
    """(name, rows) for the weight and its scales, each in the order of its rows. `read` gives whole source rows.

    Raises ModelError naming a source tensor that holds infinities or NaN.
    """
    weight, scale = (stored.name for stored in tensor.stored("float32")[:2])
    pending: Levels = np.empty((0, tensor.shape[1]), np.int8)
    for levels, scales in _rows(tensor, quantization, read):
        yield scale, scales
        if quantization.bits == 8:
            yield weight, levels
            continue
        joined = np.concatenate([pending, levels])
        whole = len(joined) // 2 * 2
        yield weight, pack_pairs(joined[:whole])
        pending = joined[whole:]
    if len(pending):
        yield weight, pack_pairs(np.concatenate([pending, np.zeros_like(pending)]))


def _rows(
    tensor: PlannedTensor, quantization: WeightQuantization, read: Callable[[Piece], Iterator[Array]]
) -> Iterator[tuple[Array, Floats]]:
    for piece in tensor.pieces:
        for rows in read(piece):
            step = max(1, _BLOCK_VALUES // rows.shape[1])
            for start in range(0, len(rows), step):
                yield _quantize(rows[start : start + step].astype(np.float32), piece, quantization)
    if tensor.padding:
        zeros = np.zeros((tensor.padding, tensor.shape[1]), np.float32)
        yield quantize(zeros, quantization.scheme, quantization.group_size)


def _quantize(rows: Floats, piece: Piece, quantization: WeightQuantization) -> tuple[Array, Floats]:
    if not np.isfinite(rows).all():
        raise ModelError(f"Tensor {piece.source.name} holds infinities or NaN and cannot be quantized.")
    columns, size = piece.columns, quantization.group_size
    levels, scales = quantize(rows, quantization.scheme, size)
    if columns is None:
        return levels, scales
    cut = levels[:, columns.start : columns.stop]
    return cut, scales[:, columns.start // size : -(-columns.stop // size)] if size else scales

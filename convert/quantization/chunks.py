"""A planned tensor as the levels and scales of its rank file, chunk by chunk.

Whole rows of the source are quantized before they are cut, so that the ranks of a split checkpoint hold exact parts of
the one that is not split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from inflight.convert.checkpoint.layout import module_path
from inflight.convert.plan import Piece, PlannedTensor
from inflight.convert.quantization.round_to_nearest import (
    FLOAT8_GREATEST,
    Array,
    Floats,
    Levels,
    float8_levels,
    pack_pairs,
    quantize,
)
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.convert.source.tensor import Measured
from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError

# float32 values that are worked on at once: few enough for the processor's cache.
_BLOCK_VALUES = 1 << 18


def quantized_chunks(
    tensor: PlannedTensor, quantization: WeightQuantization, dtype: str, read: Callable[[Piece], Iterator[Array]]
) -> Iterator[tuple[str, Array]]:
    """(name, rows) for each tensor of a quantized matrix in a checkpoint of type `dtype`, in the order of its rows.
    `read` gives whole source rows.

    Raises ModelError naming a source tensor that holds infinities or NaN.
    """
    module = module_path(tensor.name)
    weight, scale = tensor.name, quantization.scale_name(module)
    pending: Levels = np.empty((0, tensor.shape[1]), np.int8)
    yield from _of_inputs(tensor, quantization, dtype)
    for levels, scales in _rows(tensor, quantization, dtype, read):
        if scales is not None:
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


def _of_inputs(tensor: PlannedTensor, quantization: WeightQuantization, dtype: str) -> Iterator[tuple[str, Array]]:
    """The tensors that tell of the rows which a matrix multiplies, from what was measured of them."""
    piece, module = tensor.pieces[0], module_path(tensor.name)
    row_scale, factors = quantization.row_scale_name(module), quantization.factors_name(module)
    if row_scale is not None:
        yield row_scale, np.array([_measured(piece).rows_greatest / FLOAT8_GREATEST], np.float32)
    if factors is not None:
        columns = piece.columns
        every = _factors(piece, dtype)
        yield factors, (every if columns is None else every[columns.start : columns.stop]).astype(numpy_dtype(dtype))


def _measured(piece: Piece) -> Measured:
    found = piece.source.measured
    assert found is not None, f"{piece.source.name} is not calibrated"
    return found


def _factors(piece: Piece, dtype: str) -> Floats:
    """As a checkpoint of this type stores them: the weights are divided by what the rows are multiplied by."""
    factors = _measured(piece).factors
    assert factors is not None, f"{piece.source.name} is not smoothed"
    return factors.astype(numpy_dtype(dtype)).astype(np.float32)


def _rows(
    tensor: PlannedTensor, quantization: WeightQuantization, dtype: str, read: Callable[[Piece], Iterator[Array]]
) -> Iterator[tuple[Array, Floats | None]]:
    """Levels of the rows, and their scales; that of a whole matrix comes with the first."""
    whole = None
    if quantization.scheme.weights.scale == "matrix":
        whole = np.array([_measured(tensor.pieces[0]).weights_greatest / FLOAT8_GREATEST], np.float32)
        yield np.empty((0, tensor.shape[1]), numpy_dtype(quantization.scheme.weights.dtype)), whole
    for piece in tensor.pieces:
        if (kept := _kept_rows(piece, quantization)) is not None:
            yield from kept
            continue
        factors = _factors(piece, dtype) if quantization.scaled_inputs else None
        for rows in read(piece):
            step = max(1, _BLOCK_VALUES // rows.shape[1])
            for start in range(0, len(rows), step):
                part = rows[start : start + step].astype(np.float32)
                if factors is not None:
                    part /= factors
                if whole is not None:
                    yield _cut(float8_levels(part, whole), None, piece, 0)
                else:
                    yield _quantize(part, piece, quantization)
    if tensor.padding:
        zeros = np.zeros((tensor.padding, tensor.shape[1]), np.float32)
        yield quantize(zeros, quantization.scheme, quantization.group_size)


def _kept_rows(piece: Piece, quantization: WeightQuantization) -> Iterator[tuple[Array, Floats | None]] | None:
    """The levels and scales that the source has already, if all are of this form."""
    size, least = quantization.group_size, -(2 ** (quantization.bits - 1))
    first = piece.source.levels(0, 1) if quantization.scheme.weights.scale == "group" else None
    if first is None or first.size != size or first.zeros is not None:
        return None

    def rows() -> Iterator[tuple[Array, Floats | None]]:
        step = max(1, _BLOCK_VALUES // piece.source.shape[1])
        for start in range(piece.rows.start, piece.rows.stop, step):
            found = piece.source.levels(start, min(start + step, piece.rows.stop))
            assert found is not None and found.levels.min() >= least and found.levels.max() < -least, piece.source.name
            yield _cut(found.levels.astype(np.int8), found.scales.astype(np.float32), piece, size)

    return rows()


def _quantize(rows: Floats, piece: Piece, quantization: WeightQuantization) -> tuple[Array, Floats | None]:
    if not np.isfinite(rows).all():
        raise ModelError(f"Tensor {piece.source.name} holds infinities or NaN and cannot be quantized.")
    size = quantization.group_size
    return _cut(*quantize(rows, quantization.scheme, size), piece, size)


def _cut(levels: Array, scales: Floats | None, piece: Piece, size: int) -> tuple[Array, Floats | None]:
    columns = piece.columns
    if columns is None:
        return levels, scales
    cut = levels[:, columns.start : columns.stop]
    return cut, scales[:, columns.start // size : -(-columns.stop // size)] if size and scales is not None else scales

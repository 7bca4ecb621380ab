"""A planned tensor as the levels and scales of its rank file, chunk by chunk.

Whole rows of the source are quantized before they are cut, so that the ranks of a split checkpoint hold exact parts of
the one that is not split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from inflight.convert.checkpoint.layout import module_path
from inflight.convert.plan import Piece, PlannedTensor
from inflight.convert.quantization.round_to_nearest import (
    Array,
    Floats,
    Levels,
    pack_pairs,
    quantize,
)
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.convert.source.tensor import GroupLevels, LevelForm, Measured
from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError

# Levels and scales of some rows, and the zero points of a form that has them; a part without scales has none of both.
_Part = tuple[Array, Floats | None, Floats | None]
# float32 values that are worked on at once: few enough for the processor's cache.
_BLOCK_VALUES = 1 << 18
# No level is greater, its zero point taken off.
_GREATEST_LEVEL = 512.0


def quantized_chunks(
    tensor: PlannedTensor, quantization: WeightQuantization, dtype: str, read: Callable[[Piece], Iterator[Array]]
) -> Iterator[tuple[str, Array]]:
    """(name, rows) for each tensor of a quantized matrix in a checkpoint of type `dtype`, in the order of its rows.
    `read` gives whole source rows.

    Raises ModelError naming a source tensor that holds infinities or NaN.
    """
    module = module_path(tensor.name)
    weight, scale = tensor.name, quantization.scale_name(module)
    pending: Levels = np.empty((0, tensor.shape[-1]), np.int8)
    yield from _of_inputs(tensor, quantization, dtype)
    zero = quantization.zero_name(module)
    for levels, scales, zeros in _rows(tensor, quantization, dtype, read):
        if scales is not None:
            yield scale, scales
        if zero is not None and zeros is not None:
            yield zero, zeros
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
    """The tensors that tell of the rows which a matrix multiplies, and of its bound, from what was measured."""
    piece, module = tensor.pieces[0], module_path(tensor.name)
    row_scale, factors = quantization.row_scale_name(module), quantization.factors_name(module)
    bound = quantization.bound_name(module)
    if bound is not None:
        yield bound, np.array([_measured(piece).bound], np.float32)
    if row_scale is not None:
        yield row_scale, np.array([_measured(piece).scale], np.float32)
    order = quantization.order_name(module)
    if order is not None:
        yield order, np.ascontiguousarray(_measured(piece).order, np.int32)
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
) -> Iterator[_Part]:
    """Levels of the rows, and their scales; that of a whole matrix comes with the first."""
    if quantization.scheme.weights.scale == "matrix":
        yield np.empty((0, tensor.shape[1]), numpy_dtype(quantization.scheme.weights.dtype)), *_whole(tensor)
    for piece in tensor.pieces:
        found = _chosen_rows(piece, quantization) or _kept_rows(piece, quantization)
        if found is not None:
            yield from found
            continue
        factors = _factors(piece, dtype) if quantization.scaled_inputs else None
        for rows in read(piece):
            step = max(1, _BLOCK_VALUES // rows.shape[1])
            for start in range(0, len(rows), step):
                part = rows[start : start + step].astype(np.float32)
                if factors is not None:
                    part /= factors
                yield _quantize(part, piece, quantization)
    if tensor.padding:
        yield _padding(tensor, quantization)


def _whole(tensor: PlannedTensor) -> tuple[Floats, None]:
    """The one scale of a matrix."""
    source = tensor.pieces[0].source
    assert source.chosen is not None, f"{source.name} is not calibrated"
    return source.chosen.scales, None


def _chosen_rows(piece: Piece, quantization: WeightQuantization) -> Iterator[_Part] | None:
    """The levels and scales that calibration chose, if it did: a budget may ask for other ones after all."""
    found, size = piece.source.chosen, quantization.group_size
    if found is None or found.dtype != quantization.scheme.weights.dtype:
        return None

    def rows() -> Iterator[_Part]:
        step = max(1, _BLOCK_VALUES // piece.source.shape[1])
        for start in range(piece.rows.start, piece.rows.stop, step):
            part = slice(start, min(start + step, piece.rows.stop))
            scales = None if quantization.scheme.weights.scale == "matrix" else found.scales[part]
            yield _cut((found.levels[part], scales, None), piece, size)

    return rows()


def _padding(tensor: PlannedTensor, quantization: WeightQuantization) -> _Part:
    """Rows of zeros behind those of the model."""
    rows, columns = tensor.padding, tensor.shape[1]
    size = quantization.group_size
    if quantization.scheme.divisors:
        return *quantize(np.zeros((rows, columns), np.float32), quantization.scheme, size), None
    scales = np.zeros((rows, -(-columns // size)) if size else rows, np.float32)
    stored = numpy_dtype(quantization.scheme.weights.dtype) if quantization.bits == 8 else np.int8
    return np.zeros((rows, columns), stored), scales, scales


def _kept_rows(piece: Piece, quantization: WeightQuantization) -> Iterator[_Part] | None:
    """The levels and scales that the source has already, if they are of this form.

    Raises ModelError for scales or zero points that are infinite or none.
    """
    source, size = piece.source, quantization.group_size
    weights, width = quantization.scheme.weights, piece.source.shape[1]
    bits: Literal[4, 8] = 4 if quantization.bits == 4 else 8
    floats = weights.dtype == "float8_e4m3fn"
    rows_as = {"scaled": quantization.scaled_inputs, "ordered": quantization.ordered_inputs}
    form = LevelForm(bits, min(size, width) or width, quantization.zero_points, weights.codebook, floats, **rows_as)
    if weights.scale == "matrix" or source.form is None:
        return None
    if not form.holds(source.form):
        return None

    def rows() -> Iterator[_Part]:
        step = max(1, _BLOCK_VALUES // width)
        for start in range(piece.rows.start, piece.rows.stop, step):
            found = source.levels(start, min(start + step, piece.rows.stop))
            assert found is not None, f"{source.name} has no levels"
            levels, scales, zeros = found.stored(form)
            numbers = [each for each in (scales, zeros, levels if floats else None) if each is not None]
            if not all(np.isfinite(each).all() for each in numbers) or _overflows(found, scales):
                raise ModelError(
                    f"Tensor {source.name} holds infinities or NaN.", "The model is broken: download it again."
                )
            yield _cut((levels, scales if size else scales[:, 0], zeros), piece, size)

    return rows()


def _overflows(rows: GroupLevels, scales: Floats) -> bool:
    """Whether a number is infinite though its level and its scale are not. Levels are looked at only where they can be
    such.
    """
    if float(np.abs(scales).max(initial=0)) * _GREATEST_LEVEL < np.finfo(np.float32).max:
        return False
    return not np.isfinite(rows.values()).all()


def _quantize(rows: Floats, piece: Piece, quantization: WeightQuantization) -> _Part:
    if not np.isfinite(rows).all():
        raise ModelError(f"Tensor {piece.source.name} holds infinities or NaN and cannot be quantized.")
    size = quantization.group_size
    return _cut((*quantize(rows, quantization.scheme, size), None), piece, size)


def _cut(part: _Part, piece: Piece, size: int) -> _Part:
    columns = piece.columns
    if columns is None:
        return part
    levels = part[0][:, columns.start : columns.stop]
    if not size:
        return levels, *part[1:]
    groups = slice(columns.start // size, -(-columns.stop // size))
    scales, zeros = (None if each is None else each[:, groups] for each in part[1:])
    return levels, scales, zeros

"""Writing rank files: the header first, from the plan's shapes, then the data in chunks of a few megabytes.

Memory does not grow with the model: a chunk is read, cast or quantized, cut and written before the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.layout import module_path
from inflight.convert.plan import Piece, PlannedTensor
from inflight.convert.quantization.chunks import quantized_chunks
from inflight.convert.quantization.codebooks import CODEBOOKS
from inflight.convert.quantization.scheme import StoredTensor
from inflight.dtypes import numpy_dtype
from inflight.errors import ModelError
from inflight.files.tensor_file import ALIGNMENT, encode_header, tensor_bytes

CHUNK_BYTES = 1 << 24
# Values that are looked at together: few enough for the processor's cache.
_CHECKED_VALUES = 1 << 17
# Values of a chunk, of which nearly always one is not zero.
_FIRST = 4096
_EXPONENTS = {"float32": np.uint32(0x7F800000), "bfloat16": np.uint16(0x7F80), "float16": np.uint16(0x7C00)}
Array = npt.NDArray[Any]


def write_rank_file(
    path: Path, tensors: tuple[PlannedTensor, ...], dtype: str, advance: Callable[[int, str], None]
) -> list[PlannedTensor]:
    """Write the tensors of one rank as `dtype`. `advance` is called with bytes written and the tensor's name. Returns
    matrices that are nothing but zeros.

    Raises ModelError naming the tensor when a value is none or does not fit `dtype`, or the source cannot be read.
    """
    ordered = _aligned_first(stored for tensor in tensors for stored in tensor.stored(dtype))
    header = encode_header({stored.name: (stored.dtype, stored.shape) for stored in ordered})
    places = _places(ordered, len(header))
    nonzero: set[str] = set()
    with path.open("wb") as file:
        file.write(header)
        for tensor in tensors:
            for name, chunk in tensor_chunks(tensor, dtype):
                # A quantized matrix grows in two places at once: its integers and their scales.
                file.seek(places[name])
                places[name] += file.write(_raw(chunk))
                if name not in nonzero and (chunk.reshape(-1)[:_FIRST].any() or chunk.any()):
                    nonzero.add(name)
                advance(chunk.nbytes, name)
    return [tensor for tensor in tensors if len(tensor.shape) > 1 and _is_zero(tensor, nonzero)]


def _is_zero(tensor: PlannedTensor, nonzero: Set[str]) -> bool:
    """Whether a matrix is, of whose stored tensors these have something beside zeros."""
    quantization, module = tensor.quantization, module_path(tensor.name)
    if quantization is None:
        return tensor.name not in nonzero
    if quantization.zero_name(module) in nonzero:
        return False
    codes = quantization.codebook is not None and CODEBOOKS[quantization.codebook][0] != 0
    return quantization.scale_name(module) not in nonzero or (tensor.name not in nonzero and not codes)


def _aligned_first(tensors: Iterable[StoredTensor]) -> list[StoredTensor]:
    """Tensors of a multiple of 64 bytes come first, so that an odd one does not push the others off their alignment."""
    return sorted(tensors, key=lambda tensor: tensor_bytes(tensor.shape, tensor.dtype) % ALIGNMENT != 0)


def _places(tensors: Sequence[StoredTensor], start: int) -> dict[str, int]:
    """Where each tensor begins in the file."""
    sizes = [tensor_bytes(tensor.shape, tensor.dtype) for tensor in tensors]
    return dict(zip((tensor.name for tensor in tensors), accumulate(sizes, initial=start), strict=False))


def tensor_chunks(tensor: PlannedTensor, dtype: str) -> Iterator[tuple[str, Array]]:
    """The chunks of each tensor that the file gets, with its name, in the order of its rows."""
    if tensor.quantization is not None:
        yield from quantized_chunks(tensor, tensor.quantization, dtype, _read_rows)
        return
    (stored,) = tensor.stored(dtype)
    for piece in tensor.pieces:
        for rows in _read_rows(piece):
            cut = rows if piece.columns is None else rows[:, piece.columns.start : piece.columns.stop]
            _check_finite(cut, piece.source.name)
            yield tensor.name, _cast(_shifted(cut, tensor.offset), stored.dtype, piece.source.name)
    if tensor.padding:
        yield tensor.name, np.zeros((tensor.padding, *tensor.shape[1:]), numpy_dtype(stored.dtype))


def _shifted(rows: Array, offset: float) -> Array:
    """rows + offset, summed in float32 as transformers sums them."""
    return rows.astype(np.float32) + np.float32(offset) if offset else rows


def _read_rows(piece: Piece) -> Iterator[Array]:
    """The whole rows of a piece as the source has them, at most CHUNK_BYTES of numbers at a time."""
    source = piece.source
    step = max(1, CHUNK_BYTES // max(math.prod(source.shape[1:]) * source.work_bytes, 1))
    for start in range(piece.rows.start, piece.rows.stop, step):
        yield source.rows(start, min(start + step, piece.rows.stop))


def _raw(array: Array) -> memoryview:
    """The bytes of an array; numpy's own buffers do not know bfloat16."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _check_finite(rows: Array, name: str) -> None:
    """One NaN makes every token of every prompt NaN. The bits of an exponent are all ones in infinities and NaN."""
    exponent = _EXPONENTS.get(rows.dtype.name)
    bits = rows.view(f"u{rows.itemsize}")
    if exponent is None:
        return
    for start in range(0, len(bits), step := max(1, _CHECKED_VALUES * len(bits) // max(1, bits.size))):
        part = bits[start : start + step]
        if ((part & exponent) == exponent).any():
            raise ModelError(
                f"Tensor {name} holds infinities or NaN.",
                "The model is broken: download it again, or take an earlier state of its training.",
            )


def _cast(rows: Array, dtype: str, name: str) -> Array:
    target = numpy_dtype(dtype)
    if rows.dtype == target:
        return np.ascontiguousarray(rows)
    with np.errstate(over="ignore"):
        result = rows.astype(target, order="C")
    if target.itemsize < 4:
        overflow = np.isinf(result) & ~np.isinf(rows)
        if overflow.any():
            worst = float(np.abs(rows[overflow].astype(np.float64)).max())
            raise ModelError(
                f"Tensor {name} does not fit {dtype}: a value of magnitude {worst:.6g} would become infinite.",
                "Convert with --dtype bfloat16 or --dtype float32.",
            )
    return result

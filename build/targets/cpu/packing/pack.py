"""Write the packed weights file: tensor by tensor, a few panels at a time, from the memory-mapped checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import name_of, tensor_of
from inflight.build.targets.cpu.packing.experts import expert_biases, expert_pieces, quantized_expert_pieces
from inflight.build.targets.cpu.packing.huge_pages import HugePageWriter
from inflight.build.targets.cpu.packing.weight_layout import (
    GROUP,
    PANEL,
    STRIP,
    PackedTensor,
    QuantizedPanels,
    WeightLayout,
)
from inflight.errors import BuildError
from inflight.progress import Advance

Array = npt.NDArray[Any]
Item = TypeVar("Item")

# Source bytes that are rearranged at once; peak memory is a small multiple of it.
_CHUNK_BYTES = 1 << 24
_LANES = 16


def pack_weights(layout: WeightLayout, path: Path, advance: Advance) -> None:
    """Write `layout` to `path`. The bytes depend on the weights alone. `advance` is called with bytes written."""
    with path.open("wb") as file:
        writer = HugePageWriter(file)
        for tensor in layout.tensors:
            writer.pad_to(tensor.offset)
            for piece in _pieces(tensor):
                data = np.ascontiguousarray(piece).data.cast("B")
                writer.write(data)
                advance(len(data), tensor.sources[0].name)
        writer.pad_to(layout.total_bytes)
        writer.finish()


def _pieces(tensor: PackedTensor) -> Iterator[Array]:
    arrays = [tensor_of(value).numpy() for value in tensor.sources]
    if tensor.layout == "floats":
        yield arrays[0].astype(np.float32).ravel()
    elif tensor.layout == "numbers":
        yield arrays[0].astype(np.int32)
    elif tensor.layout == "gated_floats":
        height = tensor.nbytes // (2 * np.dtype(np.float32).itemsize)
        yield _side_by_side([_padded(array.astype(np.float32)[:, None], height, 1) for array in arrays])
    elif tensor.layout == "rows":
        yield from _row_pieces(_as_bits(arrays[0]))
    elif tensor.layout.endswith("expert_floats"):
        yield from expert_biases(arrays[0], tensor.layout.startswith("gated"))
    elif tensor.quantized and tensor.layout.endswith("experts"):
        one = partial(_quantized_pieces, shape=tensor.quantized)
        pieces = quantized_expert_pieces(arrays, tensor.experts, tensor.layout.startswith("gated"), one)
        yield from _naming(pieces, tensor.sources[:1])
    elif tensor.layout.endswith("experts") or tensor.layout == "head_panels":
        panels = partial(_panel_pieces, group=GROUP[tensor.element])
        yield from expert_pieces(_as_bits(arrays[0]), tensor.layout == "gated_experts", panels)
    elif tensor.layout == "strips":
        yield _strips(_as_bits(arrays[0]))
    elif tensor.quantized:
        weights, *factors = _by_kind(arrays)
        yield from _naming(_quantized_pieces(weights, factors, tensor.quantized), _by_kind(tensor.sources)[0])
    else:
        yield from _panel_pieces([_as_bits(array) for array in arrays], GROUP[tensor.element])


def _naming(pieces: Iterator[Array], weights: Sequence[ir.Value]) -> Iterator[Array]:
    """The same; an error names the weights."""
    try:
        yield from pieces
    except BuildError as error:
        names = " or ".join(map(name_of, weights))
        raise BuildError(f"{names}: {error.message}", error.hint) from error


def _as_bits(array: Array) -> Array:
    """The same elements as unsigned integers, which NumPy moves without knowing what they mean."""
    return array.view(f"u{array.dtype.itemsize}")


def _row_pieces(array: Array) -> Iterator[Array]:
    rows = max(1, _CHUNK_BYTES // (array.shape[1] * array.itemsize))
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]


def _panel_pieces(arrays: list[Array], group: int) -> Iterator[Array]:
    """Panels of one matrix, or of two whose columns alternate by 16; a few panels at a time."""
    out_features, in_features = arrays[0].shape
    width = PANEL // len(arrays)
    panels = -(-out_features // width)
    at_once = max(1, _CHUNK_BYTES // (PANEL * in_features * arrays[0].itemsize))
    for first in range(0, panels, at_once):
        count = min(at_once, panels - first)
        blocks = [_padded(array[first * width : (first + count) * width], count * width, group) for array in arrays]
        yield _to_panels(_side_by_side(blocks), count, group)


def _strips(array: Array) -> Array:
    """[out, in] -> [ceil(out / 16)][in][16]"""
    count, width = array.shape
    strips = -(-count // STRIP)
    return _padded(array, strips * STRIP, 1).reshape(strips, STRIP, width).transpose(0, 2, 1)


def _by_kind(sources: Sequence[Item]) -> list[Sequence[Item]]:
    """Weights, scales and, where there are some, zero points of one matrix, or of two: weight and scale in turn, zero
    points behind them.
    """
    count = 1 if len(sources) in (2, 3) else 2
    zeros = sources[2 * count :]
    kinds = [sources[: 2 * count : 2], sources[1 : 2 * count : 2]]
    return [*kinds, zeros] if zeros else kinds


def _quantized_pieces(
    weights: Sequence[Array], scales: Sequence[Sequence[Array]], shape: QuantizedPanels
) -> Iterator[Array]:
    """Panels of one quantized matrix, or of two whose columns alternate by 16, with their scales and zero points."""
    out_features = len(weights[0])
    width = PANEL // len(weights)
    panels = -(-out_features // width)
    at_once = max(1, _CHUNK_BYTES // (PANEL * shape.width))
    for first in range(0, panels, at_once):
        count = min(at_once, panels - first)
        start, stop = first * width, min(out_features, (first + count) * width)
        columns = [_padded(shape.levels(array[start:stop]), count * width, 1) for array in weights]
        factors = [
            [_padded(_per_output(array, out_features)[start:stop], count * width, 1) for array in kind]
            for kind in scales
        ]
        yield shape.to_panels(_side_by_side(columns), *map(_side_by_side, factors))


def _per_output(scales: Array, out_features: int) -> Array:
    """Scales [1], [out] or [out, groups] as [out, groups]."""
    if scales.shape == (1,):
        return np.broadcast_to(scales, (out_features, 1))
    return scales.reshape(out_features, -1)


def _side_by_side(blocks: list[Array]) -> Array:
    """The columns of one matrix as they are; of two, 16 of the first and 16 of the second in turn."""
    if len(blocks) == 1:
        return blocks[0]
    columns: Array = np.stack([block.reshape(-1, _LANES, block.shape[1]) for block in blocks], axis=1)
    return columns.reshape(-1, blocks[0].shape[1])


def _padded(rows: Array, height: int, group: int) -> Array:
    width = -(-rows.shape[1] // group) * group
    if rows.shape == (height, width):
        return np.ascontiguousarray(rows)
    padded = np.zeros((height, width), rows.dtype)
    padded[: rows.shape[0], : rows.shape[1]] = rows
    return padded


def _to_panels(columns: Array, panels: int, group: int) -> Array:
    """[panels * 64][in] -> [panels][in / group][64][group]; a group moves as one wider integer."""
    wide = columns.view(f"u{columns.itemsize * group}").reshape(panels, PANEL, -1)
    return wide.transpose(0, 2, 1)

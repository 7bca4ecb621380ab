"""Tensors of the checkpoint as the network reads them: named, typed, shaped, and read only when weights are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, shape_of, tensor_of

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class HostTensor:
    """`read` gives the numbers: an array of `shape`, in NumPy's or ml_dtypes' type for `dtype`."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    read: Callable[[], Array]

    @classmethod
    def of(cls, value: ir.Value) -> HostTensor:
        """An initializer in the type in which it is stored."""
        tensor = tensor_of(value)
        shape = tuple(int(dim) for dim in shape_of(value))
        return cls(name_of(value), dtype_of(value), shape, lambda: np.asarray(tensor.numpy()))

    def transposed(self, permutation: Sequence[int]) -> HostTensor:
        shape = tuple(self.shape[axis] for axis in permutation)
        return self._rearranged(shape, lambda array: array.transpose(permutation))

    def reshaped(self, shape: Sequence[int]) -> HostTensor:
        return self._rearranged(tuple(shape), lambda array: array.reshape(shape))

    def columns(self, count: int) -> HostTensor:
        """The first `count` of the last axis."""
        return self._rearranged((*self.shape[:-1], count), lambda array: array[..., :count])

    def followed_by(self, rows: Array) -> HostTensor:
        """With more rows behind it."""
        shape = (self.shape[0] + len(rows), *self.shape[1:])
        return self._rearranged(shape, lambda array: np.concatenate([array, rows.astype(array.dtype)]))

    def cast(self, dtype: ir.DataType) -> HostTensor:
        if dtype == self.dtype:
            return self
        return replace(self._rearranged(self.shape, lambda array: array.astype(dtype.numpy())), dtype=dtype)

    def nbytes(self) -> int:
        """Two elements of four bits share a byte."""
        return -(-prod(self.shape) * int(self.dtype.bitwidth) // 8)

    def packed(self) -> Array:
        """The bytes as TensorRT takes them, uint8: elements in order, of four bits the first one low."""
        array = np.ascontiguousarray(self.read())
        if self.dtype != ir.DataType.INT4:
            return array.reshape(-1).view(np.uint8)
        nibbles = array.reshape(-1).astype(np.int8).view(np.uint8) & 0xF
        nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
        return nibbles[::2] | nibbles[1::2] << 4

    def _rearranged(self, shape: tuple[int, ...], change: Callable[[Array], Array]) -> HostTensor:
        read = self.read
        return replace(self, shape=shape, read=lambda: change(read()))

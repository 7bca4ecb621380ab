"""What is measured: launches one behind the other, what they must move and compute, and what torch does instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.spec import Variant

Array: TypeAlias = npt.NDArray[Any]

# bfloat16 is its bits here: a GPU asks for no more, and a kit is 10 MB smaller without another package.
DTYPES: Mapping[str, Any] = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32}
_PATTERN = 1 << 20


@dataclass(frozen=True)
class Peer:
    """What torch does instead: a function of workers/torch_kernels.py and its arguments; `name` is for the table."""

    name: str
    work: str
    arguments: Mapping[str, int | float]


@dataclass(frozen=True)
class Call:
    """One launch: a kernel of the cuda target; its arrays are those of the case, of the same names unless `arrays`
    names another for an argument."""

    function: str
    variant: Variant
    sizes: Mapping[str, int]
    scalars: Mapping[str, int] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """`moved` bytes and `operations` in products of `operands` are the least that the work takes."""

    model: str
    name: str
    calls: tuple[Call, ...]
    arrays: Callable[[], dict[str, Array]]
    moved: int
    operations: int = 0
    operands: str = "bf16"
    peer: Peer | None = None


@dataclass(frozen=True)
class ProductCase:
    """A product with many rows: cuBLASLt's. Rows and weights of `operands`; results of 4 bytes."""

    model: str
    name: str
    n: int
    k: int
    rows: int
    operands: str
    peer: Peer | None = None

    @property
    def operand_bytes(self) -> int:
        return 2 if self.operands in ("bf16", "fp16") else 1

    @property
    def moved(self) -> int:
        return self.operand_bytes * self.k * (self.n + self.rows) + 4 * self.n * self.rows

    @property
    def operations(self) -> int:
        return 2 * self.n * self.k * self.rows


def numbers(shape: tuple[int, ...], dtype: str = "bf16") -> Array:
    """Normal random numbers; a pattern of a million of them, repeated."""
    return np.resize(_normal_numbers(dtype), shape)


def _bits_of_bfloat16(values: Array) -> Array:
    """float32 [N], none of them NaN, to uint16 [N], rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    return np.asarray((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def levels(shape: tuple[int, ...]) -> Array:
    """Random bytes, none of which is NaN as a float8; a pattern of a million, repeated."""
    return np.resize(_bytes(), shape)


@cache
def _normal_numbers(dtype: str) -> Array:
    pattern = np.random.default_rng().standard_normal(_PATTERN, np.float32)
    return _bits_of_bfloat16(pattern) if dtype == "bf16" else pattern.astype(DTYPES[dtype])


@cache
def _bytes() -> Array:
    pattern = np.random.default_rng().integers(-120, 121, _PATTERN, np.int8)
    pattern[(pattern & 0x7F) == 0x7F] = 0
    return pattern


def zeros(shape: tuple[int, ...], dtype: str = "fp32") -> Array:
    return np.zeros(shape, DTYPES.get(dtype, dtype))

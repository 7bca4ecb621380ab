"""What is measured: launches one behind the other, what they must move and compute, and what torch does instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.spec import Variant

Array: TypeAlias = npt.NDArray[Any]

DTYPES: Mapping[str, Any] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32}
_PATTERN = 1 << 20


@dataclass(frozen=True)
class Peer:
    """What torch does instead: a function of workers/torch_kernels.py and its arguments; `name` is for the table."""

    name: str
    work: str
    arguments: Mapping[str, int | float]


@dataclass(frozen=True)
class Call:
    """One launch: a kernel of the cuda target; its arrays are those of the case, of the same names."""

    function: str
    variant: Variant
    sizes: Mapping[str, int]
    scalars: Mapping[str, int] = field(default_factory=dict)


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
    pattern = np.random.default_rng().standard_normal(_PATTERN, np.float32).astype(DTYPES[dtype])
    return np.resize(pattern, shape)


def levels(shape: tuple[int, ...]) -> Array:
    """Random bytes, none of which is NaN as a float8."""
    pattern = np.random.default_rng().integers(-120, 121, _PATTERN, np.int8)
    pattern[(pattern & 0x7F) == 0x7F] = 0
    return np.resize(pattern, shape)


def zeros(shape: tuple[int, ...], dtype: str = "fp32") -> Array:
    return np.zeros(shape, DTYPES.get(dtype, dtype))

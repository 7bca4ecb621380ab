"""Products with many rows: cuBLASLt, through nvmath's bindings of it. Needs a GPU, `nvmath-python` and `nvidia-cublas`.

The algorithm of a product is chosen once, for the greatest number of rows, and then serves any number: what cuBLASLt
would choose differs from number to number, and with it the order of a row's sums. Splits of the inner dimension are
ruled out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from cuda.bindings.runtime import cudaDataType
from nvmath.bindings import cublas, cublasLt

# Buffers given to a product must be multiples of this.
ALIGNMENT = 256
_TRANSPOSED = 1  # CUBLAS_OP_T
_Attribute = cublasLt.MatmulDescAttribute
_Preference = cublasLt.MatmulPreferenceAttribute


@dataclass(frozen=True)
class Operands:
    """Operands of a product: a type of this name, and how its sums are stored and scaled."""

    name: str
    operand: Any
    result: Any
    compute: Any
    scale: Any

    @property
    def scaled(self) -> bool:
        """True when rows and outputs have scales that the product applies."""
        return self.name == "float8"


_FLOAT = (cublas.ComputeType.COMPUTE_32F, cudaDataType.CUDA_R_32F)
_INTEGER = (cublas.ComputeType.COMPUTE_32I, cudaDataType.CUDA_R_32I)
# int8 gives the exact int32 sums: `scale_product` makes numbers of them.
OPERANDS = {
    "bf16": Operands("bf16", cudaDataType.CUDA_R_16BF, cudaDataType.CUDA_R_32F, *_FLOAT),
    "fp16": Operands("fp16", cudaDataType.CUDA_R_16F, cudaDataType.CUDA_R_32F, *_FLOAT),
    "float8": Operands("float8", cudaDataType.CUDA_R_8F_E4M3, cudaDataType.CUDA_R_32F, *_FLOAT),
    "int8": Operands("int8", cudaDataType.CUDA_R_8I, cudaDataType.CUDA_R_32I, *_INTEGER),
}


class Product:
    """y [rows, n] = x [rows, k] times weight [n, k]', all row-major, for up to `max_rows` rows.

    y is float32, or int32 for int8. float8 rows have a scale each (float32 [rows]), and so have outputs (float32 [n]):
    sm_90 has these outer scales. The device that is current when the record is made runs all its products. `workspace`
    are the bytes that every call gives. Raises RuntimeError when cuBLASLt has no algorithm for these sizes.
    """

    def __init__(self, n: int, k: int, operands: str, max_rows: int, workspace: int = 32 << 20) -> None:
        self.n, self.k, self.max_rows, self.workspace = n, k, max_rows, workspace
        self.operands = OPERANDS[operands]
        number = np.int32 if operands == "int8" else np.float32
        self._one, self._zero = np.ones((), number), np.zeros((), number)
        self._undo: list[tuple[Callable[[int], None], int]] = []
        self._handle = self._own(cublasLt.create(), cublasLt.destroy)
        description = cublasLt.matmul_desc_create(self.operands.compute, self.operands.scale)
        self._description = self._own(description, cublasLt.matmul_desc_destroy)
        self._describe()
        # cuBLASLt is column-major: it sees y' = weight x', where the weight is the transposed left operand.
        self._weight = self._layout(self.operands.operand, k, n)
        self._layouts: dict[int, tuple[int, int]] = {}
        self._algorithm = self._choose()

    def __enter__(self) -> Product:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the resources of cuBLASLt; the product cannot be used afterwards."""
        while self._undo:
            destroy, value = self._undo.pop()
            destroy(value)

    def __call__(
        self,
        x: int,
        weight: int,
        y: int,
        rows: int,
        workspace: int,
        stream: int,
        *,
        x_scale: int = 0,
        weight_scale: int = 0,
    ) -> None:
        """Queue one product on `stream`. Addresses of device memory; the scales are for float8 alone."""
        if self.operands.scaled:
            self._set(_Attribute.A_SCALE_POINTER, weight_scale)
            self._set(_Attribute.B_SCALE_POINTER, x_scale)
        x_layout, y_layout = self._row_layouts(rows)
        cublasLt.matmul(
            self._handle,
            self._description,
            self._one.ctypes.data,
            weight,
            self._weight,
            x,
            x_layout,
            self._zero.ctypes.data,
            y,
            y_layout,
            y,
            y_layout,
            self._algorithm.ptr,  # the algorithm is what the record begins with
            workspace,
            self.workspace,
            stream,
        )

    def _describe(self) -> None:
        self._set(_Attribute.TRANSA, _TRANSPOSED)
        if self.operands.scaled:
            self._set(_Attribute.A_SCALE_MODE, cublasLt.MatmulMatrixScale.OUTER_VEC_32F)
            self._set(_Attribute.B_SCALE_MODE, cublasLt.MatmulMatrixScale.OUTER_VEC_32F)
            # Hopper's fast sums keep 14 bits.
            self._set(_Attribute.FAST_ACCUM, 0)

    def _choose(self) -> Any:
        """The first algorithm that cuBLASLt proposes for `max_rows` rows without splits."""
        preference = self._own(cublasLt.matmul_preference_create(), cublasLt.matmul_preference_destroy)
        for attribute, value in (
            (_Preference.MAX_WORKSPACE_BYTES, self.workspace),
            (_Preference.REDUCTION_SCHEME_MASK, cublasLt.ReductionScheme.NONE),
        ):
            setter = cublasLt.matmul_preference_set_attribute
            _set(setter, cublasLt.get_matmul_preference_attribute_dtype, preference, attribute, value)
        found = cublasLt.MatmulHeuristicResult(1)
        count = np.zeros(1, np.int32)
        x_layout, y_layout = self._row_layouts(self.max_rows)
        cublasLt.matmul_algo_get_heuristic(
            self._handle,
            self._description,
            self._weight,
            x_layout,
            y_layout,
            y_layout,
            preference,
            1,
            found.ptr,
            count.ctypes.data,
        )
        if not count[0]:
            raise RuntimeError(f"cuBLASLt has no algorithm for {self.operands.name} weights ({self.n}, {self.k}).")
        return found

    def _row_layouts(self, rows: int) -> tuple[int, int]:
        """The layouts of x and y."""
        if rows not in self._layouts:
            y_layout = self._layout(self.operands.result, self.n, rows)
            self._layouts[rows] = self._layout(self.operands.operand, self.k, rows), y_layout
        return self._layouts[rows]

    def _layout(self, dtype: Any, height: int, width: int) -> int:
        return self._own(cublasLt.matrix_layout_create(dtype, height, width, height), cublasLt.matrix_layout_destroy)

    def _set(self, attribute: Any, value: int) -> None:
        setter = cublasLt.matmul_desc_set_attribute
        _set(setter, cublasLt.get_matmul_desc_attribute_dtype, self._description, attribute, value)

    def _own(self, value: int, destroy: Callable[[int], None]) -> int:
        self._undo.append((destroy, value))
        return value


def _set(setter: Callable[..., None], type_of: Callable[[Any], Any], record: int, attribute: Any, value: int) -> None:
    """An attribute of a record of cuBLASLt, in the type that it is stored in."""
    stored = np.array(int(value), type_of(attribute))
    setter(record, attribute, stored.ctypes.data, stored.nbytes)

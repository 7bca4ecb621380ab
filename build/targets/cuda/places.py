"""Where the arguments of launches lie: the arena of a step, scratch memory, the weights, the cache, the step's
integers."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of
from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.passes.plan_memory import OFFSET
from inflight.build.targets.cuda.weights import FlatWeights
from inflight.engine_format.cuda_facts import Operand

TRITON_TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int32": "i32"}
UNUSED = Operand(place="counters")
_ALIGNMENT = 256


class Places:
    """Operands of the values of one graph. `caches`: bytes of a block that lie before each cache, by its name.
    `native_float8`: see `kinds_of` of quantized_tiles."""

    def __init__(self, weights: FlatWeights, caches: Mapping[str, int], *, native_float8: bool) -> None:
        self.weights, self.native_float8 = weights, native_float8
        self.scratch_bytes = self.counter_bytes = _ALIGNMENT
        self._caches = caches

    def need(self, *, counters: int = 0, scratch: int = 0) -> None:
        """Room for so many bytes of counters and of scratch memory, which one launch at a time uses."""
        self.counter_bytes = max(self.counter_bytes, aligned(counters))
        self.scratch_bytes = max(self.scratch_bytes, aligned(scratch))

    def of(self, value: ir.Value | None, *, by_row: bool = False) -> Operand:
        """The operand of a value of the graph; None: memory that the kernel does not touch. `by_row`: for launches that
        may begin behind the first row."""
        if value is None:
            return UNUSED
        name, row_bytes = name_of(value), width_of(value) * int(dtype_of(value).itemsize) if by_row else 0
        if value.const_value is not None:
            return Operand(place="weights", at=self.weights.offset_of(value))
        if name in self._caches:
            return self.of_cache(name)
        if OFFSET in value.metadata_props:
            return Operand(place="arena", at=int(value.metadata_props[OFFSET]), row_bytes=row_bytes)
        return Operand(place="step", name=name, row_bytes=row_bytes)

    def of_cache(self, name: str) -> Operand:
        """Of a cache, or of its scales."""
        return Operand(place="cache", at=self._caches[name])


def triton_type(value: ir.Value) -> str:
    """bf16 for bfloat16, and so on."""
    return TRITON_TYPES[facts_of(dtype_of(value)).name]


def width_of(value: ir.Value) -> int:
    """Elements of a row; 1 for a list of numbers."""
    shape = shape_of(value)
    return int(shape[-1]) if len(shape) > 1 else 1


def aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT

"""The rounding of a quantized KV cache, in standard operators between a layer's keys and values and its cache.

The cache itself stays float32 and holds what the cpu target's cache means (its kernels/cache.h): so an engine of this
target is the judge of one of that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.build.graph.values import name_of, new_value, shape_of
from inflight.convert.quantization.hadamard import hadamard_matrix

FLOAT, FLOAT8, BOOL = ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN, ir.DataType.BOOL


def round_cache(model: ir.Model, kv_cache_dtype: str, factors: Sequence[tuple[float, float]]) -> ir.Model:
    """`model` with every key and value rounded to "int8", "fp8" or "int4" before it is written; it is left as it was.
    `factors`: those of each layer of an FP8 cache; none: 1.
    """
    rounded = model.clone()
    writes = [node for node in rounded.graph if node.op_type == "TensorScatter"]
    places = [_place(write) for write in writes]
    for (layer, kind), write in zip(places, writes, strict=True):
        rows = write.inputs[1]
        assert rows is not None, f"{write.name} writes nothing"
        rounding = _Rounding(rounded.graph, write, name_of(write.outputs[0]))
        factor = factors[layer][kind] if factors else 1.0
        write.replace_input_with(1, rounding(kv_cache_dtype, rows, factor))
    return rounded


def _place(write: ir.Node) -> tuple[int, int]:
    """The layer that writes, and 0 for its keys, 1 for its values."""
    kind, _, layer = name_of(write.outputs[0]).rpartition(".")
    return int(layer), int(kind == "present_value")


class _Rounding:
    """Appends operators ahead of `before`, named by `name`."""

    def __init__(self, graph: ir.Graph, before: ir.Node, name: str) -> None:
        self._graph, self._before, self._name, self._count = graph, before, name, 0

    def __call__(self, kv_cache_dtype: str, x: ir.Value, factor: float) -> ir.Value:
        """x [batch, heads, step, D] rounded, of the same shape."""
        if kv_cache_dtype == "fp8":
            return self._float8(x, factor)
        return self._int4(x) if kv_cache_dtype == "int4" else self._int8(x)

    def _float8(self, x: ir.Value, factor: float) -> ir.Value:
        by = self._constant(np.float32(factor))
        levels = self._op("Cast", [self._op("Div", [x, by])], FLOAT8, to=FLOAT8.value, saturate=1)
        return self._op("Mul", [self._op("Cast", [levels], to=FLOAT.value), by])

    def _int8(self, x: ir.Value) -> ir.Value:
        greatest = self._reduce("ReduceMax", self._op("Abs", [x]))
        scale = self._op("Div", [greatest, self._constant(np.float32(GREATEST_LEVEL["int8"]))])
        divisor = self._op("Max", [scale, self._constant(np.finfo(np.float32).tiny)])
        levels = self._op("Round", [self._op("Div", [x, divisor])])
        return self._op("Mul", [levels, scale])

    def _int4(self, x: ir.Value) -> ir.Value:
        """-8 is the level of the greatest magnitude, so scales are negative where that is positive."""
        turn = self._constant(hadamard_matrix(int(shape_of(x)[-1])))
        turned = self._op("MatMul", [x, turn])
        below = self._op("Neg", [self._reduce("ReduceMin", turned)])
        above = self._reduce("ReduceMax", turned)
        is_below = self._op("GreaterOrEqual", [below, above], BOOL)
        extreme = self._op("Where", [is_below, below, self._op("Neg", [above])])
        scale = self._op("Div", [extreme, self._constant(np.float32(8))])
        is_zero = self._op("Equal", [scale, self._constant(np.float32(0))], BOOL)
        divisor = self._op("Where", [is_zero, self._constant(np.float32(1)), scale])
        levels = self._op("Round", [self._op("Div", [turned, divisor])])
        levels = self._op("Clip", [levels, self._constant(np.float32(-8)), self._constant(np.float32(7))])
        return self._op("MatMul", [self._op("Mul", [levels, scale]), turn])

    def _reduce(self, kind: str, x: ir.Value) -> ir.Value:
        """Over a head, whose size becomes 1."""
        reduced = self._op(kind, [x, self._constant(np.array([-1], np.int64))], keepdims=1)
        reduced.shape = ir.Shape((*shape_of(x)[:-1], 1))
        return reduced

    def _op(self, kind: str, inputs: Sequence[ir.Value], dtype: ir.DataType = FLOAT, **attributes: int) -> ir.Value:
        """The shape is that of the first input."""
        name = self._next(kind)
        output = new_value(name, dtype, shape_of(inputs[0]))
        node = ir.node(kind, inputs, attributes or None, outputs=[output], name=name)
        self._graph.insert_before(self._before, node)
        return output

    def _constant(self, array: npt.ArrayLike) -> ir.Value:
        tensor = ir.tensor(np.asarray(array), name=self._next("constant"))
        value = new_value(str(tensor.name), tensor.dtype, np.shape(array))
        value.const_value = tensor
        self._graph.register_initializer(value)
        return value

    def _next(self, kind: str) -> str:
        self._count += 1
        return f"{self._name}.rounded.{self._count}.{kind}"

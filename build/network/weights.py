"""The checkpoint's tensors as initializers that point into its files."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import name_of, shape_of
from inflight.build.network.stored_tensors import stored_tensor
from inflight.build.quantization.forms import row_form, write_matrix
from inflight.build.quantization.rows import ordered_rows, scaled_rows
from inflight.build.quantization.stored_matrix import RowFacts, StoredMatrix
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.quantization.schemes import RowDtype

FLOAT = ir.DataType.FLOAT


class Weights:
    """Makes initializers by their checkpoint names, without reading a byte of them."""

    def __init__(self, builder: GraphBuilder, checkpoint: Checkpoint) -> None:
        self._builder = builder
        self._table = checkpoint.tensors
        self._quantization_of = checkpoint.quantization_of
        self._rounded: dict[tuple[str, str, str | None], ir.Value] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def rounded_rows(self, x: ir.Value, prefix: str, name: str) -> ir.Value:
        """x float32 [batch, step, K] as it meets `prefix`.weight in the product `name`: rounded if that is quantized.

        Rows that several products round alike are rounded once.
        """
        quantization = self._quantization_of(prefix)
        if quantization is None:
            return x
        factors, order = quantization.factors_name(prefix), quantization.order_name(prefix)
        if order is not None:
            x = ordered_rows.write(self._builder, x, self.stored(order), name)
        if factors is not None:
            x = scaled_rows.write(self._builder, x, self.float32(factors), name)
        stored, dtype = quantization.row_scale_name(prefix), quantization.activations
        key = (name_of(x), dtype, stored)
        if key not in self._rounded:
            scale = None if stored is None else self._scalar(stored)
            facts = RowFacts(dtype, scale, quantization.row_limits, name)
            self._rounded[key] = row_form(quantization.scheme).write(self._builder, x, facts)
        return self._rounded[key]

    def _scalar(self, name: str) -> ir.Value:
        """A tensor of one element as one without axes."""
        return self._builder.initializer(name, stored_tensor(self._table[name], shape=()))

    def stored(self, name: str) -> ir.Value:
        """The tensor in the type in which it is stored."""
        return self._builder.initializer(name, stored_tensor(self._table[name]))

    def float32(self, name: str) -> ir.Value:
        """The tensor as float32: the initializer itself, or a Cast of it."""
        stored = self.stored(name)
        if stored.dtype == ir.DataType.FLOAT:
            return stored
        return self._builder.op(
            "Cast", [stored], f"{name}.float32", ir.DataType.FLOAT, shape_of(stored), {"to": ir.DataType.FLOAT.value}
        )

    def stack(self, prefix: str, name: str) -> ir.Value:
        """`prefix`.weight of all experts as float32 [experts, out, in]; quantized ones are one flat matrix before, in a
        value called `name`.
        """
        quantization = self._quantization_of(prefix)
        if quantization is None:
            return self.float32(f"{prefix}.weight")
        matrix = StoredMatrix.of(self._table, prefix, quantization)
        count, outputs, inputs = *matrix.scale.shape[:2], matrix.weight.shape[-1]
        flat = write_matrix(self._builder, matrix.flat(), quantization.scheme, name)
        op, shape = self._builder.op, (count, outputs, inputs)
        turned = op("Transpose", [flat], f"{name}.turned", FLOAT, (count * outputs, inputs), {"perm": [1, 0]})
        axes = self._builder.constant(f"weights.stack_{count}_{outputs}_{inputs}", shape)
        return op("Reshape", [turned, axes], f"{name}.stack", FLOAT, shape)

    def rows_of(self, prefix: str) -> RowDtype | None:
        """The type to which rows are rounded that meet `prefix`.weight; None for a plain one."""
        quantization = self._quantization_of(prefix)
        return None if quantization is None else quantization.activations

    def transposed(self, prefix: str, name: str) -> ir.Value:
        """`prefix`.weight (out, in) as float32 [in, out], in a value called `name`; levels times their scales."""
        quantization = self._quantization_of(prefix)
        if quantization is not None:
            matrix = StoredMatrix.of(self._table, prefix, quantization)
            return write_matrix(self._builder, matrix, quantization.scheme, name)
        weight = self.float32(f"{prefix}.weight")
        outputs, inputs = shape_of(weight)
        return self._builder.op("Transpose", [weight], name, ir.DataType.FLOAT, (inputs, outputs), {"perm": [1, 0]})

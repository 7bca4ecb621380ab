"""What the forms of quantized matrices and rows take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.network.stored_tensors import stored_tensor
from inflight.build.passes.rewrite import is_permutation, produced_by
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.convert.quantization.schemes import Codebook, RowDtype
from inflight.files.tensor_file import TensorEntry


class StoredMatrix(NamedTuple):
    """A quantized matrix (out, in) as the checkpoint's file holds it."""

    weight: TensorEntry
    scale: TensorEntry
    group_size: int
    zero: TensorEntry | None = None
    codebook: Codebook | None = None

    @classmethod
    def of(cls, table: Mapping[str, TensorEntry], module: str, quantization: WeightQuantization) -> StoredMatrix:
        scale, zero = table[quantization.scale_name(module)], quantization.zero_name(module)
        given = None if zero is None else table[zero]
        return cls(table[f"{module}.weight"], scale, quantization.group_size, given, quantization.codebook)

    def flat(self) -> StoredMatrix:
        """A stack of matrices [experts, out, in] as the one matrix (experts * out, in) of the same bytes."""
        zero = None if self.zero is None else _flat(self.zero)
        return self._replace(weight=_flat(self.weight), scale=_flat(self.scale), zero=zero)


def _flat(entry: TensorEntry) -> TensorEntry:
    return replace(entry, shape=(entry.shape[0] * entry.shape[1], *entry.shape[2:]))


class RowFacts(NamedTuple):
    """How rows are rounded: to which type, by which stored scale (float32 []) if there is one, cut to which limits
    before, and what the product behind is called.
    """

    dtype: RowDtype
    scale: ir.Value | None
    limits: tuple[float, float] | None
    product: str


class QuantizedMatrix(NamedTuple):
    """Levels [out, in] with scales: float32 [1], [out], or [out, groups] of `group_size` inputs each; `zero` [out,
    groups] is added to what a level times its scale is. `codebook` float32 [16]: levels are codes of its numbers.

    Levels, scales and zero points are initializers of the graph, or shall replace the ones of the same names.
    """

    weight: ir.Value
    scale: ir.Value
    group_size: int
    zero: ir.Value | None = None
    codebook: ir.Value | None = None


class RoundedRows(NamedTuple):
    """x [..., K] rounded to `dtype`; `result` is the levels times the scale of each row.

    `levels` and `scale` tell the names of what a pass makes of it; rows of bfloat16 have no scale. `stored`: the one
    scale, float32 []; None: each row has its own. `limits`: scalars to which x is cut before.
    """

    x: ir.Value
    dtype: RowDtype
    levels: ir.Value
    scale: ir.Value | None
    result: ir.Value
    stored: ir.Value | None = None
    limits: tuple[ir.Value, ir.Value] | None = None


class Dequantized(NamedTuple):
    """A DequantizeLinear of initializers, without zero points."""

    node: ir.Node
    levels: ir.Value
    scale: ir.Value


def find_transposed(value: ir.Value | None) -> Dequantized | None:
    """What float32 [in, out] is the transpose of, if that is made of levels [out, in] and their scales."""
    transpose = produced_by(value, "Transpose")
    node = None if transpose is None else produced_by(transpose.inputs[0], "DequantizeLinear")
    if transpose is None or node is None or not is_permutation(transpose, (1, 0)) or len(node.inputs) != 2:
        return None
    levels, scale = node.inputs
    if levels is None or scale is None or not (levels.is_initializer() and scale.is_initializer()):
        return None
    return Dequantized(node, levels, scale)


def initializer_of(builder: GraphBuilder, entry: TensorEntry) -> ir.Value:
    """The tensor as it lies in the file."""
    return builder.initializer(entry.name, stored_tensor(entry))

"""The checkpoint's tensors as initializers that point into its files."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from inflight.build.network.graph_builder import GraphBuilder
from inflight.build.values import shape_of
from inflight.convert.tensor_file import TensorEntry

_ONNX_NAMES = {"float32": "FLOAT"}


class Weights:
    """Makes initializers by their checkpoint names, without reading a byte of them."""

    def __init__(self, builder: GraphBuilder, table: Mapping[str, TensorEntry]) -> None:
        self._builder = builder
        self._table = table

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def stored(self, name: str) -> ir.Value:
        """The tensor in the type in which it is stored."""
        entry = self._table[name]
        return self._builder.initializer(
            name,
            ir.ExternalTensor(
                location=entry.file.name,
                offset=entry.offset,
                length=entry.nbytes,
                dtype=ir.DataType[_ONNX_NAMES.get(entry.dtype, entry.dtype.upper())],
                shape=ir.Shape(entry.shape),
                name=name,
                base_dir=str(entry.file.parent),
            ),
        )

    def float32(self, name: str) -> ir.Value:
        """The tensor as float32: the initializer itself, or a Cast of it."""
        stored = self.stored(name)
        if stored.dtype == ir.DataType.FLOAT:
            return stored
        return self._builder.op(
            "Cast", [stored], f"{name}.float32", ir.DataType.FLOAT, shape_of(stored), {"to": ir.DataType.FLOAT.value}
        )

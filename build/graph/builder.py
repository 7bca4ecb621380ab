"""A small front end to onnx-ir: every value gets a name, a dtype and a shape when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.values import Dim, new_value

Shape = Sequence[Dim]


class GraphBuilder:
    """Collects inputs, initializers and nodes in the order in which they are made, which is a topological order."""

    def __init__(self) -> None:
        self._inputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._functions: dict[str, ir.Function] = {}

    @property
    def functions(self) -> list[ir.Function]:
        """Those that were called, once each."""
        return list(self._functions.values())

    def input(self, name: str, dtype: ir.DataType, shape: Shape) -> ir.Value:
        self._inputs.append(new_value(name, dtype, tuple(shape)))
        return self._inputs[-1]

    def initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """The initializer that holds `tensor`; a second one of the same name is the first again."""
        if name not in self._initializers:
            value = new_value(name, tensor.dtype, tensor.shape.numpy())
            value.const_value = tensor
            self._initializers[name] = value
        return self._initializers[name]

    def constant(self, name: str, array: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> ir.Value:
        return self.initializer(name, ir.tensor(np.asarray(array, dtype=dtype), name=name))

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType,
        shape: Shape,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Append a node with one output; node and output are both called `name`."""
        return self.ops(op_type, inputs, name, [(name, dtype, shape)], attributes)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        outputs: Sequence[tuple[str, ir.DataType, Shape]],
        attributes: Mapping[str, Any] | None = None,
    ) -> Sequence[ir.Value]:
        """Append a node with the given outputs: (name, dtype, shape) each."""
        values = [new_value(out, dtype, tuple(shape)) for out, dtype, shape in outputs]
        self._nodes.append(ir.node(op_type, inputs, attributes, outputs=values, name=name))
        return values

    def call(
        self,
        function: ir.Function,
        inputs: Sequence[ir.Value],
        name: str,
        dtype: ir.DataType,
        shape: Shape,
        attributes: Mapping[str, Any],
    ) -> ir.Value:
        """Append a call of a model-local function with one output. Functions of one name are the same."""
        self._functions.setdefault(function.name, function)
        output = new_value(name, dtype, tuple(shape))
        domain = function.domain
        self._nodes.append(ir.node(function.name, inputs, attributes, domain=domain, outputs=[output], name=name))
        return output

    def graph(self, name: str, outputs: Sequence[ir.Value], opset: int) -> ir.Graph:
        return ir.Graph(
            self._inputs,
            outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": opset, **{function.domain: 1 for function in self.functions}},
            name=name,
        )

"""The nodes of a model-local function, as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class FunctionBody:
    """Nodes of a function; its constants are nodes as well. Types and shapes inside are inferred by whoever runs it."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def op(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        return self.ops(op_type, inputs, 1, attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int, attributes: Mapping[str, Any] | None = None
    ) -> Sequence[ir.Value]:
        name = f"{op_type}_{len(self.nodes)}"
        values = [ir.Value(name=f"{name}.{index}") for index in range(outputs)]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=values, name=name))
        return values

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> ir.Value:
        return self.op("Constant", [], {"value": ir.tensor(np.asarray(array, dtype))})

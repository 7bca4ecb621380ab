"""Small graphs for the tests of single passes, and two judges for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from inflight.build.graph.builder import GraphBuilder
from inflight.build.network.layers import OPSET
from inflight.build.network.network import IR_VERSION
from tests.oracles.fused_graph import Interpreter

Array = npt.NDArray[Any]
FLOAT = ir.DataType.FLOAT


class SmallGraph(GraphBuilder):
    """A GraphBuilder with shorthands: rows x [batch, step, size], weights of any type, transposed weights."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self._rng = rng

    def rows(self, name: str, size: int) -> ir.Value:
        return self.input(name, FLOAT, ("batch", "step", size))

    def weight(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> ir.Value:
        """A random initializer, as float32: cast when it is stored in another type."""
        stored = self.constant(name, self._rng.standard_normal(shape), dtype)
        if stored.dtype == FLOAT:
            return stored
        return self.op("Cast", [stored], f"{name}.float32", FLOAT, shape, {"to": FLOAT.value})

    def transposed(self, weight: ir.Value, perm: tuple[int, int] = (1, 0)) -> ir.Value:
        rows, columns = weight.shape.numpy()
        shape = (columns, rows) if perm == (1, 0) else (rows, columns)
        return self.op("Transpose", [weight], f"{weight.name}.transposed", FLOAT, shape, {"perm": list(perm)})

    def linear(self, x: ir.Value, name: str, outputs: int, bias: bool = False) -> ir.Value:
        weight = self.weight(f"{name}.weight", (outputs, x.shape[-1]))
        shape = ("batch", "step", outputs)
        product = self.op("MatMul", [x, self.transposed(weight)], name, FLOAT, shape)
        return product if not bias else self.add(product, self.weight(f"{name}.bias", (outputs,)), f"{name}.biased")

    def add(self, left: ir.Value, right: ir.Value, name: str) -> ir.Value:
        return self.op("Add", [left, right], name, FLOAT, ("batch", "step", left.shape[-1]))

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        weight = self.weight(f"{name}.weight", (int(x.shape[-1]),))
        return self.op("RMSNormalization", [x, weight], name, FLOAT, tuple(x.shape), {"axis": -1, "epsilon": 1e-3})

    def model(self, *outputs: ir.Value) -> ir.Model:
        return ir.Model(self.graph("small", outputs, OPSET), ir_version=IR_VERSION)


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def assert_same_result(model: ir.Model, passes: Sequence[Callable[[ir.Graph], None]], inputs: dict[str, Array]) -> None:
    """Run `passes`, after which all nodes are fused, and compare the first output before and after."""
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, inputs)[0]
    for run in passes:
        run(model.graph)
    np.testing.assert_allclose(Interpreter(model).run(inputs), expected, rtol=1e-4, atol=1e-4)

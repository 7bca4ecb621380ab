"""Runs a fused graph in NumPy, operator by operator: the judge between the passes and the compiled engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from inflight.build.graph.operators import updated_in_place
from inflight.build.graph.values import array_of, dtype_of, name_of
from tests.oracles.fused_operators import REFERENCES

Array = npt.NDArray[Any]


class Interpreter:
    """Evaluates the graph of `lower_for_cpu`."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._weights = {name: array_of(value) for name, value in model.graph.initializers.items()}

    def run(self, inputs: Mapping[str, Array], *, trace: dict[str, Array] | None = None) -> Array:
        """Logits float32 [R, vocab] of one step.

        `inputs` holds every graph input by name (docs/formats/operators.md); the caches are written in place. `trace`,
        when given, receives every intermediate value by name.
        """
        values: dict[str, Array | None] = {**self._weights, **inputs}
        for node in self._graph:
            self._evaluate(node, values)
        if trace is not None:
            made = (name_of(value) for node in self._graph for value in node.outputs)
            trace.update({name: value for name in made if (value := values[name]) is not None})
        logits = values[name_of(self._graph.outputs[0])]
        assert logits is not None, "every output of a checked graph is computed"
        return logits

    def _evaluate(self, node: ir.Node, values: dict[str, Array | None]) -> None:
        arguments = [None if value is None else values[name_of(value)] for value in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        results = REFERENCES[node.op_type](*arguments, **attributes)
        caches = updated_in_place(node)
        for value, result in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            dtype: np.dtype[Any] = dtype_of(value).numpy()
            values[name_of(value)] = result if value in caches else result.astype(dtype, copy=False)

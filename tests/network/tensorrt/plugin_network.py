"""A live TensorRT-RTX network that takes plugins: their outputs are its inputs, for the interpreter to fill."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.network.tensorrt.plugin_api import Request, ShapeExpr, TensorDesc
from tests.oracles.plugin_semantics import MEANINGS
from tests.oracles.tensorrt_network import PluginCall


class PluginLayer:
    """As much of a plugin's layer as the writer looks at."""

    def __init__(self, outputs: list[Any]) -> None:
        self.name = ""
        self._outputs = outputs

    def get_output(self, index: int) -> Any:
        return self._outputs[index]


class PluginNetwork:
    """`network` with an add_plugin, which full TensorRT's has; `calls` are those that were made, for `requests`."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.calls: list[PluginCall] = []
        self.requests: list[Request] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def add_plugin(self, func: Any, aot: bool) -> Any:
        assert aot
        described = func.outputs([description(tensor) for tensor in func.tensors])
        outputs = [
            self.network.add_input(f"plugin.{len(self.calls)}.{index}", output.dtype, _declared(output))
            for index, output in enumerate(described)
        ]
        meaning = partial(MEANINGS[func.plugin.name], **func.attributes)
        self.requests.append(func)
        self.calls.append(PluginCall(func.tensors, outputs, meaning))
        return PluginLayer(outputs)


def description(tensor: Any) -> TensorDesc:
    return TensorDesc([ShapeExpr(None if size < 0 else size) for size in tensor.shape], tensor.dtype)


def _declared(output: TensorDesc) -> tuple[int, ...]:
    return tuple(-1 if size.value is None else size.value for size in output.shape_expr)

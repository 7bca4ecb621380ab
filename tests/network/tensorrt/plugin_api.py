"""The part of `tensorrt.plugin` that the plugins use, where that module cannot be imported.

It is imported by libnvinfer's bindings alone, and its libraries are not on the public index. This module has the same
names (a test holds them to the public source) and keeps the documented rules for signatures; its shape expressions are
sizes, known or not, in place of TensorRT's. It shows that our side is right by the documentation, and nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")

PLUGINS = "inflight.build.targets.tensorrt.plugins.attention"


class ShapeExpr:
    """A size; None is one that is not known yet, and so is whatever is computed from it."""

    def __init__(self, value: int | None) -> None:
        self.value = value

    def __mul__(self, other: ShapeExpr | int) -> ShapeExpr:
        right = other.value if isinstance(other, ShapeExpr) else other
        return ShapeExpr(None if self.value is None or right is None else self.value * right)

    def constant_value(self) -> int:
        if self.value is None:
            raise RuntimeError("the size is not a constant")
        return self.value


def cdiv(first: ShapeExpr, second: int) -> ShapeExpr:
    return ShapeExpr(None if first.value is None else -(-first.value // second))


class TensorDesc:
    def __init__(self, shape_expr: Sequence[ShapeExpr], dtype: Any) -> None:
        self.shape_expr = list(shape_expr)
        self.dtype = dtype

    def like(self) -> TensorDesc:
        return TensorDesc(self.shape_expr, self.dtype)


def from_shape_expr(shape_expr: tuple[ShapeExpr | int, ...], dtype: Any) -> TensorDesc:
    assert isinstance(shape_expr, tuple)
    return TensorDesc([size if isinstance(size, ShapeExpr) else ShapeExpr(size) for size in shape_expr], dtype)


class SymInt32:
    def __init__(self, value: ShapeExpr | int) -> None:
        self.value = value.value if isinstance(value, ShapeExpr) else value


class SymIntExprs:
    def __init__(self, exprs: Sequence[SymInt32]) -> None:
        self.exprs = list(exprs)

    @classmethod
    def from_tuple(cls, shape_exprs: Sequence[SymInt32]) -> SymIntExprs:
        assert all(type(expr) is SymInt32 for expr in shape_exprs), "scalars of a kernel are SymInt32"
        return cls(shape_exprs)


class KernelLaunchParams:
    NAMES = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")
    block_x: Any
    shared_mem: Any

    def __init__(self) -> None:
        for name in self.NAMES:
            setattr(self, name, 0 if name == "shared_mem" else 1)

    def __setattr__(self, name: str, value: ShapeExpr | int) -> None:
        if name not in self.NAMES:
            raise AttributeError(name)
        self.__dict__[name] = SymInt32(value)

    @property
    def grid(self) -> tuple[int | None, ...]:
        return tuple(self.__dict__[name].value for name in self.NAMES[:3])


@dataclass
class Plugin:
    """One registered plugin: names of its tensors, types of its attributes, and both functions."""

    name: str
    describe: Callable[..., Any]
    tensors: list[str]
    attributes: dict[str, type]
    implement: Callable[..., tuple[str, str, KernelLaunchParams, SymIntExprs]] | None = None

    def __call__(self, *tensors: Any, **attributes: Any) -> Request:
        assert len(tensors) == len(self.tensors), f"{self.name}: {self.tensors}"
        assert list(attributes) == list(self.attributes), f"{self.name}: attributes come in the order of their names"
        for name, kind in self.attributes.items():
            assert type(attributes[name]) is kind, f"{self.name}: {name} is a {kind}"
        return Request(self, tensors, attributes)


@dataclass
class Request:
    """What add_plugin takes."""

    plugin: Plugin
    tensors: Sequence[Any]
    attributes: dict[str, Any]

    def outputs(self, inputs: Sequence[TensorDesc]) -> list[TensorDesc]:
        result = self.plugin.describe(*inputs, **self.attributes)
        return list(result) if isinstance(result, tuple) else [result]

    def implementation(self, inputs: Sequence[TensorDesc]) -> tuple[str, str, KernelLaunchParams, SymIntExprs]:
        assert self.plugin.implement is not None, f"{self.plugin.name} has no implementation"
        return self.plugin.implement(*inputs, *self.attributes.values(), self.outputs(inputs), None)


class PluginApi(ModuleType):
    """The module. `op.inflight` has what was registered."""

    def __init__(self) -> None:
        super().__init__("tensorrt.plugin")
        for member in (ShapeExpr, TensorDesc, SymInt32, SymIntExprs, KernelLaunchParams, cdiv, from_shape_expr):
            setattr(self, member.__name__, member)
        self.op = SimpleNamespace(inflight=SimpleNamespace())

    def register(self, plugin_id: str) -> Callable[..., Any]:
        """Parameters are annotated with TensorDesc first, then with plain types; results are TensorDesc."""
        namespace, name = plugin_id.split("::")

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(function)
            kinds = {key: parameter.annotation for key, parameter in signature.parameters.items()}
            tensors = [key for key, kind in kinds.items() if kind is TensorDesc]
            attributes = {key: kind for key, kind in kinds.items() if kind is not TensorDesc}
            assert list(kinds) == [*tensors, *attributes] and tensors, f"{plugin_id}: tensors come first"
            assert set(attributes.values()) <= {int, float, bool, str}, f"{plugin_id}: {attributes}"
            assert not {"outputs", "stream", "tactic"} & set(attributes), f"{plugin_id}: reserved names"
            result = signature.return_annotation
            assert set(typing.get_args(result) or (result,)) == {TensorDesc}, f"{plugin_id}: {result}"
            setattr(getattr(self.op, namespace), name, Plugin(name, function, tensors, attributes))
            return function

        return decorate

    def aot_impl(self, plugin_id: str) -> Callable[..., Any]:
        """The names of `register`, then outputs and tactic; the result is (name, code, launch, scalars)."""
        namespace, name = plugin_id.split("::")
        plugin: Plugin = getattr(getattr(self.op, namespace), name)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(function)
            assert list(signature.parameters) == [*plugin.tensors, *plugin.attributes, "outputs", "tactic"], plugin_id
            for key, kind in plugin.attributes.items():
                assert signature.parameters[key].annotation is kind, f"{plugin_id}: {key}"
            assert typing.get_args(signature.return_annotation) == (str, str, KernelLaunchParams, SymIntExprs)
            plugin.implement = function
            return function

        return decorate


@contextmanager
def registered_plugins() -> Iterator[Any]:
    """`tensorrt.plugin.op.inflight`, filled by plugins.py itself; the modules are forgotten afterwards."""
    tensorrt, api = ModuleType("tensorrt"), PluginApi()
    tensorrt.__dict__.update(DataType=tensorrt_rtx.DataType, plugin=api)
    replaced = {"tensorrt": tensorrt, "tensorrt.plugin": api, PLUGINS: None}
    before = {name: sys.modules.pop(name) for name in replaced if name in sys.modules}
    sys.modules.update({name: module for name, module in replaced.items() if module is not None})
    try:
        importlib.import_module(PLUGINS)
        yield api.op.inflight
    finally:
        for name in replaced:
            sys.modules.pop(name, None)
        sys.modules.update(before)

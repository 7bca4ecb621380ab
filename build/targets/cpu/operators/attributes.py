"""Inputs and attributes of a node, as the literals of C that its kernel is specialized for."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator always has."""
    value = node.inputs[index]
    assert value is not None, f"{node.op_type} {node.name} lacks input {index}"
    return value


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """An input that may be missing or empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def width_of(value: ir.Value) -> str:
    """The elements of a row."""
    return str(shape_of(value)[-1])


def integer(node: ir.Node, name: str) -> str:
    return str(node.attributes[name].as_int())


def activation(node: ir.Node) -> str:
    """An `activation` of kernels/activation.h."""
    name: str = node.attributes["activation"].as_string()
    return name.upper()


def number(node: ir.Node, name: str) -> str:
    """A float32 literal that is read back as the same bits."""
    return f"{float(node.attributes[name].as_float()).hex()}f"

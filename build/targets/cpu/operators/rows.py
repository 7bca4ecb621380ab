"""Operators of float rows: one function for each, the call of its kernel."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import XIELU
from inflight.build.targets.cpu.operators.attributes import (
    activation,
    input_of,
    number,
    optional_input,
    width_of,
)
from inflight.build.targets.cpu.operators.calls import KernelCall, Places
from inflight.build.targets.cpu.packing.weight_layout import element_of


def embedding_lookup(node: ir.Node, places: Places) -> KernelCall:
    ids, weight, x = input_of(node, 0), input_of(node, 1), node.outputs[0]
    constants = (element_of(weight), width_of(x), number(node, "scale"))
    packed = places.weights.find("panels", weight) is not None
    table = places.weight("panels", weight) if packed else places.stored(weight)
    kernel = "embedding_lookup_packed" if packed else "embedding_lookup"
    return KernelCall(kernel, constants, (places.rows(x), places.read(ids), table, places.write(x)))


def rms_norm(node: ir.Node, places: Places) -> KernelCall:
    x, weight, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    inputs = (places.rows(y), places.read(x), places.weight("floats", weight))
    epsilon, residual = number(node, "epsilon"), optional_input(node, 2)
    if residual is not None:
        return KernelCall("rms_norm_add", (width_of(y), epsilon), (*inputs, places.read(residual), places.write(y)))
    return KernelCall("rms_norm", (element_of(y), width_of(y), epsilon), (*inputs, places.write(y, "void *")))


def layer_norm(node: ir.Node, places: Places) -> KernelCall:
    x, weight, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    floats = (places.weight("floats", weight), places.weight("floats", optional_input(node, 2)))
    arguments = (places.rows(y), places.read(x), *floats, places.write(y, "void *"))
    return KernelCall("layer_norm", (element_of(y), width_of(y), number(node, "epsilon")), arguments)


def linear(node: ir.Node, places: Places) -> KernelCall:
    x, weight, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    bias = places.weight("floats", optional_input(node, 2))
    if places.weights.find("strips", weight) is not None:
        inputs = (places.rows(y), places.read(x), places.weight("strips", weight))
        return KernelCall("strip_linear", (width_of(x), width_of(y)), (*inputs, bias, places.write(y)))
    inputs = (places.rows(y), places.read(x, "const void *"), places.weight("panels", weight))
    added = (bias, places.read_optional(optional_input(node, 3)))
    return KernelCall("linear", (element_of(weight), width_of(x), width_of(y)), (*inputs, *added, places.write(y)))


def gated_linear(node: ir.Node, places: Places) -> KernelCall:
    x, gate, up = (input_of(node, i) for i in range(3))
    y = node.outputs[0]
    inputs = (places.rows(y), places.read(x, "const void *"), places.weight("gated_panels", gate, up))
    biases = places.weight("gated_floats", optional_input(node, 3), optional_input(node, 4))
    constants = (element_of(gate), activation(node), width_of(x), width_of(y))
    return KernelCall("gated_linear", constants, (*inputs, biases, places.write(y, "void *")))


def activate(node: ir.Node, places: Places) -> KernelCall:
    x, y = input_of(node, 0), node.outputs[0]
    arguments = (places.rows(y), places.read(x), places.write(y, "void *"))
    return KernelCall("activate_rows", (element_of(y), activation(node), width_of(y)), arguments)


def round_rows(node: ir.Node, places: Places) -> KernelCall:
    x, y = input_of(node, 0), node.outputs[0]
    arguments = (places.rows(y), places.read(x), places.write(y, "void *"))
    return KernelCall("activate_rows", (element_of(y), "NO_ACTIVATION", width_of(y)), arguments)


def clip_rows(node: ir.Node, places: Places) -> KernelCall:
    x, y = input_of(node, 0), node.outputs[0]
    constants = (width_of(y), number(node, "low"), number(node, "high"))
    return KernelCall("clip_rows", constants, (places.rows(y), places.read(x), places.write(y)))


def xielu(node: ir.Node, places: Places) -> KernelCall:
    x, y = input_of(node, 0), node.outputs[0]
    constants = (element_of(y), width_of(y), *(number(node, name) for name in XIELU))
    return KernelCall("xielu_rows", constants, (places.rows(y), places.read(x), places.write(y, "void *")))


def scale(node: ir.Node, places: Places) -> KernelCall:
    x, y = input_of(node, 0), node.outputs[0]
    constants = (width_of(y), number(node, "factor"))
    return KernelCall("scale_rows", constants, (places.rows(y), places.read(x), places.write(y)))


def soft_cap(node: ir.Node, places: Places) -> KernelCall:
    x, y = input_of(node, 0), node.outputs[0]
    return KernelCall(
        "soft_cap_rows", (width_of(y), number(node, "cap")), (places.rows(y), places.read(x), places.write(y))
    )


def add_rows(node: ir.Node, places: Places) -> KernelCall:
    x, residual, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    arguments = (places.rows(y), places.read(x), places.read(residual), places.write(y))
    return KernelCall("add_rows", (width_of(y), number(node, "factor")), arguments)


def gather_rows(node: ir.Node, places: Places) -> KernelCall:
    x, numbers, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    arguments = (places.rows(y), places.read(numbers), places.read(x, "const void *"), places.write(y, "void *"))
    return KernelCall("gather_rows", (element_of(y), width_of(y)), arguments)


def gate(node: ir.Node, places: Places) -> KernelCall:
    gates, up, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    arguments = (places.rows(y), places.read(gates), places.read(up), places.write(y, "void *"))
    return KernelCall("gate_rows", (element_of(y), activation(node), width_of(y)), arguments)

"""Operators of latent attention: one function for each, the call of its kernel."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of
from inflight.build.graph.operators import KEY_FACTOR
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.targets.cpu.operators.attention import attention_call
from inflight.build.targets.cpu.operators.attributes import input_of, integer, number, width_of
from inflight.build.targets.cpu.operators.calls import PARTIALS, ROWS, Argument, KernelCall, Places
from inflight.build.targets.cpu.packing.weight_layout import element_of


def head_linear(node: ir.Node, places: Places) -> KernelCall:
    x, weight, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    heads, outputs, inputs = shape_of(weight)
    sizes = (heads, inputs, outputs, integer(node, "row_size"), width_of(x), width_of(y))
    shape = f"(head_products){{{', '.join(map(str, (element_of(weight), *sizes)))}}}"
    rows = (places.rows(y), places.read(x, "const void *"))
    return KernelCall("head_linear", (shape,), (*rows, places.weight("head_panels", weight), places.write(y)))


def cache_write(node: ir.Node, places: Places) -> KernelCall:
    q, met, kv = (places.read(input_of(node, i)) for i in range(3))
    heads, cache = int(integer(node, "num_heads")), input_of(node, 9)
    shape = _cache_shape(node, cache)
    constants = (shape, str(heads), str(int(shape_of(input_of(node, 0))[-1]) // heads), number(node, "epsilon"))
    weights = tuple(places.weight("floats", node.inputs[i]) for i in range(3, 6))
    outputs = (places.write(node.outputs[0]), places.cache("key", cache, shape))
    return KernelCall("latent_cache_write", constants, (ROWS, q, met, kv, *weights, *outputs, _factor(node)))


def attention(node: ir.Node, places: Places) -> KernelCall:
    q, cache, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    shape = _cache_shape(node, cache)
    causal, softcap = "1", "0.0f"
    rest = (causal, number(node, "scale"), softcap, "PARTIAL_ROWS", "0", "0")
    rows = places.cache("key", cache, shape)
    none = (*(Argument("const float *", "NULL"),) * 3, Argument("const int32_t *", "NULL"), *(_factor(node),) * 2)
    arguments = (ROWS, places.read(q), rows, rows, PARTIALS, places.write(y, "void *"), *none)
    return attention_call(shape, integer(node, "num_heads"), ("0", "0"), rest, y, arguments)


def _factor(node: ir.Node) -> Argument:
    return Argument("float", number(node, KEY_FACTOR))


def _cache_shape(node: ir.Node, cache: ir.Value) -> str:
    """One key-value head, whose values are the first elements of its keys."""
    rank, rotary = (int(integer(node, name)) for name in ("rank", "rotary_size"))
    return f"(cache_shape){{{facts_of(dtype_of(cache)).c}, 1, {rank + rotary}, {shape_of(cache)[2]}, {rank}}}"

"""Operators of attention and its cache: one function for each, the call of its kernel."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of
from inflight.build.graph.operators import CACHE_FACTORS
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.targets.cpu.operators.attributes import (
    input_of,
    integer,
    number,
    optional_input,
    width_of,
)
from inflight.build.targets.cpu.operators.calls import PARTIALS, ROWS, Argument, FunctionTable, KernelCall, Places
from inflight.build.targets.cpu.packing.weight_layout import element_of


def rope_cache_write(node: ir.Node, places: Places) -> KernelCall:
    qkv, q, keys, values = input_of(node, 0), node.outputs[0], input_of(node, 8), input_of(node, 9)
    shape = _cache_shape(node, keys)
    norm = (number(node, "epsilon"), integer(node, "norm_last"))
    constants = (shape, integer(node, "num_heads"), integer(node, "rotary_size"), *norm)
    tables = tuple(places.weight("floats", node.inputs[i]) for i in range(1, 5))
    caches = (places.cache("key", keys, shape), places.cache("value", values, shape))
    factors = places.weight("floats", optional_input(node, 10))
    arguments = (ROWS, places.read(qkv), *tables, factors, places.write(q), *caches, *_cache_factors(node))
    return KernelCall("rope_cache_write", constants, arguments)


def paged_attention(node: ir.Node, places: Places) -> KernelCall:
    q, keys, values = (input_of(node, i) for i in range(3))
    y = node.outputs[0]
    shape = _cache_shape(node, keys)
    numbers = (number(node, "scale"), number(node, "softcap"), "PARTIAL_ROWS")
    window, chunk, causal = integer(node, "window"), integer(node, "chunk"), integer(node, "causal")
    table = optional_input(node, 7)
    bias = ("0" if table is None else width_of(table), integer(node, "bias_origin"))
    distances, columns = optional_input(node, 8), optional_input(node, 9)
    row = "0" if distances is None else width_of(distances)
    rest = (causal, *numbers, *bias, integer(node, "distance_width"), row)
    caches = (places.cache("key", keys, shape), places.cache("value", values, shape))
    added: tuple[Argument, ...] = (places.weight("floats", optional_input(node, 6)), places.weight("floats", table))
    of_distances = (places.read_optional(distances), places.weight("numbers", columns))
    added = (*added, *of_distances, *_cache_factors(node))
    arguments = (ROWS, places.read(q), *caches, PARTIALS, places.write(y, "void *"), *added)
    return attention_call(shape, integer(node, "num_heads"), (window, chunk), rest, y, arguments)


def attention_call(
    cache: str,
    num_heads: str,
    seen: tuple[str, str],
    rest: tuple[str, ...],
    y: ir.Value,
    arguments: tuple[Argument, ...],
) -> KernelCall:
    """The call of a cache's attention. `seen`: window and chunk, in which layers differ that share their tiles; `rest`:
    what follows them in attention_shape."""
    tiles = f"(attention_shape){{{', '.join((cache, num_heads, '0', '0', *rest))}}}"
    shape = f"(attention_shape){{{', '.join((cache, num_heads, *seen, *rest))}}}"
    return KernelCall("paged_attention", (shape, element_of(y)), arguments, FunctionTable("ATTENTION_TILES", tiles))


def _cache_factors(node: ir.Node) -> tuple[Argument, ...]:
    """Numbers, so that layers with other factors share a function."""
    return tuple(Argument("float", number(node, name)) for name in CACHE_FACTORS)


def _cache_shape(node: ir.Node, cache: ir.Value) -> str:
    tokens = shape_of(cache)[2]
    heads, size = integer(node, "num_kv_heads"), integer(node, "head_size")
    return f"(cache_shape){{{facts_of(dtype_of(cache)).c}, {heads}, {size}, {tokens}}}"


def qkv_norm(node: ir.Node, places: Places) -> KernelCall:
    x, q_norm, k_norm = (input_of(node, i) for i in range(3))
    y = node.outputs[0]
    constants = (width_of(y), width_of(q_norm), width_of(k_norm), number(node, "epsilon"))
    norms = (places.weight("floats", q_norm), places.weight("floats", k_norm))
    return KernelCall("qkv_norm", constants, (places.rows(y), places.read(x), *norms, places.write(y)))

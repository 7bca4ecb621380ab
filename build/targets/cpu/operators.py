"""One function per fused operator: the call of its kernel in C, shapes as literals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of, onnx_dtype
from inflight.build.graph.operators import CACHE_FACTORS, XIELU
from inflight.build.graph.quantized_rows import DIGITS
from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.targets.cpu.codebook import codebook_literal
from inflight.build.targets.cpu.float8 import FLOAT8, float8_row, stored_scale
from inflight.build.targets.cpu.packing.float8_panels import Float8Shape
from inflight.build.targets.cpu.packing.weight_layout import (
    Layout,
    WeightLayout,
    element_of,
    quantized_panels,
    scale_element,
)
from inflight.errors import BuildError

OFFSET = "inflight.offset"
# C expressions for the number of rows of a step, by the graph's symbol.
ROW_COUNTS = {"T": "e->rows.rows", "R": "(int64_t)e->batch->num_logit_rows"}
# Graph inputs that kernels read as they are; the others (paging) travel in e->rows.
_BATCH_ARRAYS = {
    "token_ids": "e->batch->token_ids",
    "positions": "e->rows.positions",
    "token_types": "e->batch->token_types",
    "logit_rows": "e->batch->logit_rows",
}


@dataclass(frozen=True)
class Argument:
    """A value known at run time: its C type and expression."""

    ctype: str
    expression: str


@dataclass(frozen=True)
class KernelCall:
    """kernel(pool, thread, *constants, *arguments). The constants are literals: the compiler specializes for them."""

    kernel: str
    constants: tuple[str, ...]
    arguments: tuple[Argument, ...]


class Places:
    """The address of every value of the graph, as C expressions."""

    def __init__(self, weights: WeightLayout) -> None:
        self.weights = weights

    def rows(self, value: ir.Value) -> Argument:
        symbol = shape_of(value)[0]
        return Argument("int64_t", ROW_COUNTS[str(symbol)])

    def read(self, value: ir.Value, ctype: str = "const float *") -> Argument:
        name = name_of(value)
        if name in _BATCH_ARRAYS:
            return Argument("const int32_t *", _BATCH_ARRAYS[name])
        return Argument(ctype, f"({ctype})(e->workspace + {value.metadata_props[OFFSET]})")

    def read_optional(self, value: ir.Value | None) -> Argument:
        """NULL for an input that is not there."""
        return Argument("const float *", "NULL") if value is None else self.read(value)

    def write(self, value: ir.Value, ctype: str = "float *") -> Argument:
        return self.read(value, ctype)

    def weight(self, layout: Layout, *values: ir.Value | None) -> Argument:
        """A packed weight; NULL for an optional input that is not there."""
        ctype = "const float *" if layout.endswith("floats") else "const void *"
        given = [value for value in values if value is not None]
        if not given:
            return Argument(ctype, "NULL")
        tensor = self.weights.find(layout, *given)
        assert tensor is not None, f"{given[0].name} is not in the weights file"
        return Argument(ctype, f"({ctype})(e->weights + {tensor.offset})")

    def stored(self, weight: ir.Value) -> Argument:
        """A table of rows that is read from the weights file."""
        tensor = self.weights.find("rows", weight)
        assert tensor is not None, f"{weight.name} is not in the weights file"
        return Argument("const stored_table *", f"&(stored_table){{e->weights_file, {tensor.offset}, &e->status}}")

    def cache(self, kind: str, value: ir.Value, shape: str) -> Argument:
        """A layer's region of keys or values; `value` is named {kind}_cache.{layer}, with .written once it is."""
        layer = int(name_of(value).removeprefix(f"{kind}_cache.").removesuffix(".written"))
        return Argument("void *", f"{kind}_region(e, {shape}, {layer})")


_ROWS = Argument("const token_rows *", "&e->rows")


def emit_call(node: ir.Node, places: Places) -> KernelCall:
    """The kernel call of one node; its operator must be in EMITTERS."""
    return EMITTERS[node.op_type](node, places)


def _embedding_lookup(node: ir.Node, places: Places) -> KernelCall:
    ids, weight, x = _input(node, 0), _input(node, 1), node.outputs[0]
    constants = (element_of(weight), _width(x), _number(node, "scale"))
    packed = places.weights.find("panels", weight) is not None
    table = places.weight("panels", weight) if packed else places.stored(weight)
    kernel = "embedding_lookup_packed" if packed else "embedding_lookup"
    return KernelCall(kernel, constants, (places.rows(x), places.read(ids), table, places.write(x)))


def _rms_norm(node: ir.Node, places: Places) -> KernelCall:
    x, weight, y = _input(node, 0), _input(node, 1), node.outputs[0]
    inputs = (places.rows(y), places.read(x), places.weight("floats", weight))
    epsilon, residual = _number(node, "epsilon"), _optional(node, 2)
    if residual is not None:
        return KernelCall("rms_norm_add", (_width(y), epsilon), (*inputs, places.read(residual), places.write(y)))
    return KernelCall("rms_norm", (element_of(y), _width(y), epsilon), (*inputs, places.write(y, "void *")))


def _layer_norm(node: ir.Node, places: Places) -> KernelCall:
    x, weight, y = _input(node, 0), _input(node, 1), node.outputs[0]
    floats = (places.weight("floats", weight), places.weight("floats", _optional(node, 2)))
    arguments = (places.rows(y), places.read(x), *floats, places.write(y, "void *"))
    return KernelCall("layer_norm", (element_of(y), _width(y), _number(node, "epsilon")), arguments)


def _linear(node: ir.Node, places: Places) -> KernelCall:
    x, weight, y = _input(node, 0), _input(node, 1), node.outputs[0]
    inputs = (places.rows(y), places.read(x, "const void *"), places.weight("panels", weight))
    added = (places.weight("floats", _optional(node, 2)), places.read_optional(_optional(node, 3)))
    return KernelCall("linear", (element_of(weight), _width(x), _width(y)), (*inputs, *added, places.write(y)))


def _gated_linear(node: ir.Node, places: Places) -> KernelCall:
    x, gate, up = (_input(node, i) for i in range(3))
    y = node.outputs[0]
    inputs = (places.rows(y), places.read(x, "const void *"), places.weight("gated_panels", gate, up))
    biases = places.weight("gated_floats", _optional(node, 3), _optional(node, 4))
    constants = (element_of(gate), _activation(node), _width(x), _width(y))
    return KernelCall("gated_linear", constants, (*inputs, biases, places.write(y, "void *")))


def _activate(node: ir.Node, places: Places) -> KernelCall:
    x, y = _input(node, 0), node.outputs[0]
    arguments = (places.rows(y), places.read(x), places.write(y, "void *"))
    return KernelCall("activate_rows", (element_of(y), _activation(node), _width(y)), arguments)


def _round(node: ir.Node, places: Places) -> KernelCall:
    x, y = _input(node, 0), node.outputs[0]
    arguments = (places.rows(y), places.read(x), places.write(y, "void *"))
    return KernelCall("activate_rows", (element_of(y), "NO_ACTIVATION", _width(y)), arguments)


def _clip(node: ir.Node, places: Places) -> KernelCall:
    x, y = _input(node, 0), node.outputs[0]
    constants = (_width(y), _number(node, "low"), _number(node, "high"))
    return KernelCall("clip_rows", constants, (places.rows(y), places.read(x), places.write(y)))


def _qkv_norm(node: ir.Node, places: Places) -> KernelCall:
    x, q_norm, k_norm = (_input(node, i) for i in range(3))
    y = node.outputs[0]
    constants = (_width(y), _width(q_norm), _width(k_norm), _number(node, "epsilon"))
    norms = (places.weight("floats", q_norm), places.weight("floats", k_norm))
    return KernelCall("qkv_norm", constants, (places.rows(y), places.read(x), *norms, places.write(y)))


def _xielu(node: ir.Node, places: Places) -> KernelCall:
    x, y = _input(node, 0), node.outputs[0]
    constants = (element_of(y), _width(y), *(_number(node, name) for name in XIELU))
    return KernelCall("xielu_rows", constants, (places.rows(y), places.read(x), places.write(y, "void *")))


def _scale(node: ir.Node, places: Places) -> KernelCall:
    x, y = _input(node, 0), node.outputs[0]
    constants = (_width(y), _number(node, "factor"))
    return KernelCall("scale_rows", constants, (places.rows(y), places.read(x), places.write(y)))


def _soft_cap(node: ir.Node, places: Places) -> KernelCall:
    x, y = _input(node, 0), node.outputs[0]
    return KernelCall(
        "soft_cap_rows", (_width(y), _number(node, "cap")), (places.rows(y), places.read(x), places.write(y))
    )


def _add_rows(node: ir.Node, places: Places) -> KernelCall:
    x, residual, y = _input(node, 0), _input(node, 1), node.outputs[0]
    arguments = (places.rows(y), places.read(x), places.read(residual), places.write(y))
    return KernelCall("add_rows", (_width(y), _number(node, "factor")), arguments)


def _rope_cache_write(node: ir.Node, places: Places) -> KernelCall:
    qkv, q, keys, values = _input(node, 0), node.outputs[0], _input(node, 8), _input(node, 9)
    shape = _cache_shape(node, keys)
    norm = (_number(node, "epsilon"), _integer(node, "norm_last"))
    constants = (shape, _integer(node, "num_heads"), _integer(node, "rotary_size"), *norm)
    tables = tuple(places.weight("floats", node.inputs[i]) for i in range(1, 5))
    caches = (places.cache("key", keys, shape), places.cache("value", values, shape))
    arguments = (_ROWS, places.read(qkv), *tables, places.write(q), *caches, *_cache_factors(node))
    return KernelCall("rope_cache_write", constants, arguments)


def _paged_attention(node: ir.Node, places: Places) -> KernelCall:
    q, keys, values = (_input(node, i) for i in range(3))
    y = node.outputs[0]
    shape = _cache_shape(node, keys)
    numbers = (_number(node, "scale"), _number(node, "softcap"), "PARTIAL_ROWS")
    seen = (_integer(node, "window"), _integer(node, "causal"))
    rest = ", ".join((_integer(node, "num_heads"), *seen, *numbers))
    caches = (places.cache("key", keys, shape), places.cache("value", values, shape))
    partials = Argument("float *", "(float *)(e->workspace + PARTIALS_OFFSET)")
    sinks = places.weight("floats", _optional(node, 6))
    arguments = (_ROWS, places.read(q), *caches, partials, places.write(y, "void *"), sinks, *_cache_factors(node))
    return KernelCall("paged_attention", (f"(attention_shape){{{shape}, {rest}}}", element_of(y)), arguments)


def _gather_rows(node: ir.Node, places: Places) -> KernelCall:
    x, numbers, y = _input(node, 0), _input(node, 1), node.outputs[0]
    arguments = (places.rows(y), places.read(numbers), places.read(x, "const void *"), places.write(y, "void *"))
    return KernelCall("gather_rows", (element_of(y), _width(y)), arguments)


def _quantize_rows(node: ir.Node, places: Places) -> KernelCall:
    x, (y, y_scale) = _input(node, 0), node.outputs
    inputs = (places.rows(y), places.read(x, "const void *"))
    outputs = (places.write(y, "void *"), places.write(y_scale))
    factors = _optional(node, 4)
    if dtype_of(y) == FLOAT8:
        if factors is not None:
            raise BuildError(f"{y.name} has factors, which the cpu target multiplies rows of integers by.")
        arguments = (*inputs, _stored_scale(node, 1), *outputs)
        return KernelCall("float8_rows", (element_of(x), float8_row(y, node.inputs[1:])), arguments)
    constants = (element_of(x), _quantized_row(y, _optional(node, 1)))
    if factors is None:
        return KernelCall("quantize_rows", constants, inputs + outputs)
    return KernelCall("quantize_scaled_rows", constants, (*inputs, places.weight("floats", factors), *outputs))


def _rms_norm_quantize(node: ir.Node, places: Places) -> KernelCall:
    x, weight, (y, y_scale) = _input(node, 0), _input(node, 1), node.outputs
    inputs = (places.rows(y), places.read(x), places.weight("floats", weight))
    outputs = (places.write(y, "void *"), places.write(y_scale))
    if dtype_of(y) == FLOAT8:
        constants = (float8_row(y, node.inputs[2:]), _number(node, "epsilon"))
        return KernelCall("rms_norm_float8_rows", constants, (*inputs, _stored_scale(node, 2), *outputs))
    constants = (_quantized_row(y, _optional(node, 2)), _number(node, "epsilon"))
    return KernelCall("rms_norm_quantize", constants, inputs + outputs)


def _quantized_linear(node: ir.Node, places: Places) -> KernelCall:
    x, x_scale, weight, scale = (_input(node, i) for i in range(4))
    y = node.outputs[0]
    inputs = (places.rows(y), places.read(x, "const void *"), places.read(x_scale))
    zero, unit = _optional(node, 5), _optional(node, 8)
    packed = (places.weight("quantized_panels", weight, scale, zero, unit), places.weight("floats", _optional(node, 4)))
    arguments = (*inputs, *packed, places.read_optional(_optional(node, 6)), places.write(y))
    kernel, constants = _quantized_product(node, zero, _optional(node, 7))
    return KernelCall(f"{kernel}_linear", (*constants, _width(y)), arguments)


def _quantized_gated_linear(node: ir.Node, places: Places) -> KernelCall:
    x, x_scale, *weights = (_input(node, i) for i in range(6))
    y = node.outputs[0]
    inputs = (places.rows(y), places.read(x, "const void *"), places.read(x_scale))
    biases = places.weight("gated_floats", _optional(node, 6), _optional(node, 7))
    zeros, units = ([_optional(node, i) for i in each] for each in ((8, 9), (11, 12)))
    packed = places.weight("gated_quantized_panels", *weights, *zeros, *units)
    arguments = (*inputs, packed, biases, places.write(y))
    kernel, constants = _quantized_product(node, zeros[0], _optional(node, 10))
    return KernelCall(f"{kernel}_gated_linear", (*constants, _activation(node), _width(y)), arguments)


def _gate(node: ir.Node, places: Places) -> KernelCall:
    gates, up, y = _input(node, 0), _input(node, 1), node.outputs[0]
    arguments = (places.rows(y), places.read(gates), places.read(up), places.write(y, "void *"))
    return KernelCall("gate_rows", (element_of(y), _activation(node), _width(y)), arguments)


def _experts(node: ir.Node, places: Places) -> KernelCall:
    x, fc, proj, logits = (_input(node, i) for i in range(4))
    y, scratch = node.outputs
    _, hidden, size = shape_of(proj)
    router = _router_literal(node, int(shape_of(logits)[-1]))
    shape = f"(experts_shape){{{element_of(fc)}, {_activation(node)}, {router}, {hidden}, {size}}}"
    inputs = (places.rows(y), places.read(x, "const void *"))
    stacks = (places.weight("gated_experts", fc), places.weight("experts", proj), *_stack_biases(node, 5, places))
    choice = places.weight("floats", _optional(node, 7))
    added = (places.read(logits), choice, places.read_optional(_optional(node, 4)))
    return KernelCall(
        "mix_experts", (shape,), (*inputs, *stacks, *added, places.write(y), places.write(scratch, "void *"))
    )


def _quantized_experts(node: ir.Node, places: Places) -> KernelCall:
    x, x_scale, fc, fc_scale, proj, proj_scale, logits = (_input(node, i) for i in range(7))
    y, scratch = node.outputs
    count, rows = int(_integer(node, "experts")), onnx_dtype(node.attributes["rows"].as_string())
    (fc_zero, proj_zero), (fc_codes, proj_codes), (fc_unit, proj_unit) = (
        [_optional(node, i) for i in each] for each in ((10, 11), (12, 13), (14, 15))
    )
    fc_group, proj_group = int(_integer(node, "group_size")), int(_integer(node, "inner_group_size"))
    gated = _quantized_literal(fc, fc_scale, fc_group, dtype_of(x), fc_zero, fc_codes)
    projected = _quantized_literal(proj, proj_scale, proj_group, rows, proj_zero, proj_codes)
    router = _router_literal(node, count)
    shape = f"(quantized_experts_shape){{{gated}, {projected}, {_activation(node)}, {router}}}"
    inputs = (places.rows(y), places.read(x, "const void *"), places.read(x_scale))
    stacks = (
        places.weight("gated_quantized_experts", fc, fc_scale, fc_zero, fc_unit),
        places.weight("quantized_experts", proj, proj_scale, proj_zero, proj_unit),
        *_stack_biases(node, 8, places),
    )
    choice = places.weight("floats", _optional(node, 16))
    added = (places.read(logits), choice, places.read_optional(_optional(node, 7)))
    arguments = (*inputs, *stacks, *added, places.write(y), places.write(scratch, "void *"))
    return KernelCall("mix_quantized_experts", (shape,), arguments)


def _router_literal(node: ir.Node, count: int) -> str:
    """A `router_shape` of kernels/router.h."""
    routing = f"ROUTE_{node.attributes['routing'].as_string().upper()}"
    numbers = ", ".join(_number(node, name) for name in ("epsilon", "scale"))
    return f"{{{routing}, {count}, {_integer(node, 'top_k')}, {numbers}}}"


def _stack_biases(node: ir.Node, place: int, places: Places) -> tuple[Argument, Argument]:
    return (
        places.weight("gated_expert_floats", _optional(node, place)),
        places.weight("expert_floats", _optional(node, place + 1)),
    )


def _gate_whole_rows(node: ir.Node, places: Places) -> KernelCall:
    x, gate, y = _input(node, 0), _input(node, 1), node.outputs[0]
    return KernelCall(
        "gate_whole_rows", (_width(y),), (places.rows(y), places.read(x), places.read(gate), places.write(y))
    )


def _quantized_product(node: ir.Node, zero: ir.Value | None, codebook: ir.Value | None) -> tuple[str, tuple[str, ...]]:
    """The kernels' family, and the constants of a product: its k, or a `quantized_shape` of kernels/qtile.h. `zero` are
    the zero points of its weights, `codebook` the table of codes.
    """
    x, weight, scale = _input(node, 0), _input(node, 2), _input(node, 3)
    size = int(_integer(node, "group_size"))
    shape = quantized_panels(weight, scale, size, zeros=zero is not None)
    if isinstance(shape, Float8Shape):
        return "float8", (str(shape.width),)
    return "quantized", (_quantized_literal(weight, scale, size, dtype_of(x), zero, codebook),)


def _quantized_literal(
    weight: ir.Value,
    scale: ir.Value,
    group_size: int,
    rows: ir.DataType,
    zero: ir.Value | None,
    codebook: ir.Value | None,
) -> str:
    """A `quantized_shape` of kernels/qtile.h, of integer weights [N, K] that meet rows of this type."""
    shape = quantized_panels(weight, scale, group_size, zeros=zero is not None)
    if isinstance(shape, Float8Shape) or shape.coded != (codebook is not None):
        has = "a" if isinstance(shape, Float8Shape) or not shape.coded else "no"
        raise BuildError(f"{weight.name} has {has} codebook, and its type is {dtype_of(weight).name}.")
    row, table = _row_literal(rows, shape.width, shape.group), codebook_literal(codebook)
    facts = f"{shape.bits}, {scale_element(scale)}, {row}, {int(shape.zeros)}, {table}"
    return f"(quantized_shape){{{facts}}}"


def _stored_scale(node: ir.Node, index: int) -> Argument:
    """The scale of all rows, as a number; 0 where each row has its own."""
    return Argument("float", stored_scale(_optional(node, index)))


def _quantized_row(y: ir.Value, stored: ir.Value | None) -> str:
    """A `quantized_row` of kernels/quantize.h: sums of activations are kept for the groups of the product behind.
    `stored` is the one scale of all rows.
    """
    width = int(_width(y))
    groups = {int(_integer(node, "group_size")) for node in y.consumers()} or {0}
    if len(groups) > 1:
        raise BuildError(f"{y.name} is read by products with groups of {sorted(groups)}; they must be of one size.")
    group = groups.pop()
    return _row_literal(dtype_of(y), width, group if 0 < group < width else width, stored)


def _row_literal(rows: ir.DataType, width: int, group: int, stored: ir.Value | None = None) -> str:
    scale = "" if stored is None else f", {stored_scale(stored)}"
    return f"(quantized_row){{{DIGITS[rows]}, {width}, {group}{scale}}}"


def _cache_factors(node: ir.Node) -> tuple[Argument, ...]:
    """Numbers, so that layers with other factors share a function."""
    return tuple(Argument("float", _number(node, name)) for name in CACHE_FACTORS)


def _cache_shape(node: ir.Node, cache: ir.Value) -> str:
    tokens = shape_of(cache)[2]
    heads, size = _integer(node, "num_kv_heads"), _integer(node, "head_size")
    return f"(cache_shape){{{facts_of(dtype_of(cache)).c}, {heads}, {size}, {tokens}}}"


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None, f"{node.op_type} {node.name} lacks input {index}"
    return value


def _optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _width(value: ir.Value) -> str:
    return str(shape_of(value)[-1])


def _integer(node: ir.Node, name: str) -> str:
    return str(node.attributes[name].as_int())


def _activation(node: ir.Node) -> str:
    """An `activation` of kernels/activation.h."""
    name: str = node.attributes["activation"].as_string()
    return name.upper()


def _number(node: ir.Node, name: str) -> str:
    """A float32 literal that is read back as the same bits."""
    return f"{float(node.attributes[name].as_float()).hex()}f"


EMITTERS: Mapping[str, Callable[[ir.Node, Places], KernelCall]] = {
    "EmbeddingLookup": _embedding_lookup,
    "RMSNorm": _rms_norm,
    "QkvNorm": _qkv_norm,
    "ClipRows": _clip,
    "RoundRows": _round,
    "LayerNorm": _layer_norm,
    "Linear": _linear,
    "GatedLinear": _gated_linear,
    "Activation": _activate,
    "Xielu": _xielu,
    "Scale": _scale,
    "SoftCap": _soft_cap,
    "AddRows": _add_rows,
    "RopeCacheWrite": _rope_cache_write,
    "PagedAttention": _paged_attention,
    "GatherRows": _gather_rows,
    "QuantizeRows": _quantize_rows,
    "RMSNormQuantize": _rms_norm_quantize,
    "QuantizedLinear": _quantized_linear,
    "QuantizedGatedLinear": _quantized_gated_linear,
    "Gate": _gate,
    "Experts": _experts,
    "QuantizedExperts": _quantized_experts,
    "GateWholeRows": _gate_whole_rows,
}

"""The fused operators of docs/formats/operators.md: signatures, and checks of nodes against them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx_ir as ir

from inflight.build.graph.values import dtype_of
from inflight.convert.quantization.schemes import RowDtype

DOMAIN = "inflight"
DOMAIN_VERSION = 1

INT, FLOAT, STRING = ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING

_HEADS = {"num_heads": INT, "num_kv_heads": INT, "head_size": INT}
_SCORES = {"scale": FLOAT, "softcap": FLOAT, "bias_origin": INT, "distance_width": INT}
_SIGHT = {"window": INT, "chunk": INT, "causal": INT}
# What the numbers of a cache of 8-bit floats are multiplied by.
CACHE_FACTORS = {"key_factor": FLOAT, "value_factor": FLOAT}
# Of latent attention, whose rows are keys, and values with them.
KEY_FACTOR = "key_factor"
_LATENT = {"num_heads": INT, "rank": INT, "rotary_size": INT, KEY_FACTOR: FLOAT}
_ADDED = frozenset({"bias", "zero", "residual", "codebook", "unit"})
_GATE_BIASES = frozenset({"gate_bias", "up_bias", "gate_zero", "up_zero", "codebook", "gate_unit", "up_unit"})
# Softplus of the first number, that of the second plus beta, and the others.
XIELU = ("positive", "negative", "beta", "epsilon")
_MIXTURE = {"top_k": INT, "routing": STRING, "epsilon": FLOAT, "scale": FLOAT, "activation": STRING}
_MIXTURE |= {"groups": INT, "top_groups": INT}
_STACK_BIASES = ("fc_bias", "proj_bias")
_STACK_PARTS = ("fc_zero", "proj_zero", "fc_codebook", "proj_codebook", "fc_unit", "proj_unit")
# Constants of rounded rows: one scale for all rows, or the range to which a row of 8-bit floats is cut.
_ROUNDING = ("scale", "low", "high")


@dataclass(frozen=True, slots=True)
class Operator:
    """The signature of one operator.

    `optional` names the inputs that may be empty. `in_place` maps an output to the input whose memory it is,
    `may_reuse` to the input whose memory it can have: the kernel reads an element before it writes the same one.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, ir.AttributeType] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    in_place: Mapping[str, str] = field(default_factory=dict)
    may_reuse: Mapping[str, str] = field(default_factory=dict)


OPERATORS: Mapping[str, Operator] = {
    "EmbeddingLookup": Operator(("token_ids", "weight"), ("x",), {"scale": FLOAT}),
    "RMSNorm": Operator(
        ("x", "weight", "residual"),
        ("y",),
        {"epsilon": FLOAT},
        optional=frozenset({"residual"}),
        may_reuse={"y": "residual"},
    ),
    "QkvNorm": Operator(("qkv", "q_norm", "k_norm"), ("y",), {"epsilon": FLOAT}, may_reuse={"y": "qkv"}),
    "ClipRows": Operator(("x",), ("y",), {"low": FLOAT, "high": FLOAT}, may_reuse={"y": "x"}),
    "RoundRows": Operator(("x",), ("y",)),
    "LayerNorm": Operator(("x", "weight", "bias"), ("y",), {"epsilon": FLOAT}, optional=frozenset({"bias"})),
    "Linear": Operator(("x", "weight", "bias", "residual"), ("y",), optional=_ADDED, may_reuse={"y": "residual"}),
    "GatedLinear": Operator(
        ("x", "gate", "up", "gate_bias", "up_bias"), ("y",), {"activation": STRING}, optional=_GATE_BIASES
    ),
    "Activation": Operator(("x",), ("y",), {"activation": STRING}, may_reuse={"y": "x"}),
    "Xielu": Operator(("x",), ("y",), dict.fromkeys(XIELU, FLOAT), may_reuse={"y": "x"}),
    "Scale": Operator(("x",), ("y",), {"factor": FLOAT}, may_reuse={"y": "x"}),
    "SoftCap": Operator(("x",), ("y",), {"cap": FLOAT}, may_reuse={"y": "x"}),
    "AddRows": Operator(("x", "residual"), ("y",), {"factor": FLOAT}, may_reuse={"y": "residual"}),
    "RopeCacheWrite": Operator(
        (
            "qkv",
            "q_norm",
            "k_norm",
            "cos",
            "sin",
            "positions",
            "sequence_of_row",
            "block_tables",
            "key_cache",
            "value_cache",
            "q_factors",
        ),
        ("q", "key_cache_written", "value_cache_written"),
        {**_HEADS, **CACHE_FACTORS, "rotary_size": INT, "epsilon": FLOAT, "norm_last": INT},
        optional=frozenset({"q_norm", "k_norm", "cos", "sin", "q_factors"}),
        in_place={"key_cache_written": "key_cache", "value_cache_written": "value_cache"},
    ),
    "PagedAttention": Operator(
        (
            *("q", "key_cache", "value_cache", "positions", "sequence_of_row", "block_tables"),
            *("sinks", "bias", "distances", "columns"),
        ),
        ("y",),
        {**_HEADS, **CACHE_FACTORS, **_SCORES, **_SIGHT},
        optional=frozenset({"sinks", "bias", "distances", "columns"}),
    ),
    "HeadLinear": Operator(("x", "weight"), ("y",), {"row_size": INT}),
    "LatentCacheWrite": Operator(
        (
            *("q", "met", "kv", "norm", "cos", "sin"),
            *("positions", "sequence_of_row", "block_tables", "cache"),
        ),
        ("queries", "cache_written"),
        {**_LATENT, "epsilon": FLOAT},
        in_place={"cache_written": "cache"},
    ),
    "PagedLatentAttention": Operator(
        ("q", "cache", "positions", "sequence_of_row", "block_tables"), ("y",), {**_LATENT, "scale": FLOAT}
    ),
    "GatherRows": Operator(("x", "rows"), ("y",)),
    "QuantizeRows": Operator(
        ("x", *_ROUNDING, "factors", "order"),
        ("y", "y_scale"),
        {"type": STRING},
        optional=frozenset({*_ROUNDING, "factors", "order"}),
    ),
    "RMSNormQuantize": Operator(
        ("x", "weight", *_ROUNDING),
        ("y", "y_scale"),
        {"epsilon": FLOAT, "type": STRING},
        optional=frozenset(_ROUNDING),
    ),
    "QuantizedLinear": Operator(
        ("x", "x_scale", "weight", "weight_scale", "bias", "zero", "residual", "codebook", "unit"),
        ("y",),
        {"group_size": INT},
        optional=_ADDED,
        may_reuse={"y": "residual"},
    ),
    "QuantizedGatedLinear": Operator(
        (
            "x",
            "x_scale",
            "gate",
            "gate_scale",
            "up",
            "up_scale",
            "gate_bias",
            "up_bias",
            "gate_zero",
            "up_zero",
            "codebook",
            "gate_unit",
            "up_unit",
        ),
        ("y",),
        {"activation": STRING, "group_size": INT},
        optional=_GATE_BIASES,
    ),
    "Experts": Operator(
        ("x", "fc", "proj", "logits", "residual", "fc_bias", "proj_bias", "choice_bias"),
        ("y", "scratch"),
        _MIXTURE,
        optional=frozenset({"residual", "choice_bias", *_STACK_BIASES}),
        may_reuse={"y": "residual"},
    ),
    "QuantizedExperts": Operator(
        (
            *("x", "x_scale", "fc", "fc_scale", "proj", "proj_scale", "logits", "residual"),
            *(*_STACK_BIASES, *_STACK_PARTS, "choice_bias"),
        ),
        ("y", "scratch"),
        {**_MIXTURE, "group_size": INT, "inner_group_size": INT, "rows": STRING, "experts": INT},
        optional=frozenset({"residual", "choice_bias", *_STACK_BIASES, *_STACK_PARTS}),
        may_reuse={"y": "residual"},
    ),
    "GateWholeRows": Operator(("x", "gates"), ("y",), may_reuse={"y": "x"}),
    "Gate": Operator(("gate_rows", "up_rows"), ("y",), {"activation": STRING}, may_reuse={"y": "gate_rows"}),
}

# Of Activation, GatedLinear, QuantizedGatedLinear, Gate, Experts and QuantizedExperts.
ACTIVATIONS = ("silu", "gelu_tanh", "gelu", "relu", "relu2")
# Of Experts and QuantizedExperts alone.
OF_EXPERTS = ("clamped_swiglu",)

# The greatest magnitude of a quantized row. 16 bits are two signed bytes, 256 * high + low, whose range ends at
# 127 * 256 + 127: so a product of int16 rows is two products of int8 rows.
GREATEST_LEVEL: Mapping[RowDtype, int] = {"int8": 127, "int16": 32639, "float8_e4m3fn": 448}

# Products, whose input 0 is rows and whose input 1 is a weight.
PRODUCTS = ("Linear", "GatedLinear", "Experts", "HeadLinear")
# Which output of an operator is rounded to the type in which a product reads it.
ROUNDED_OUTPUTS = dict.fromkeys(
    (
        *("RMSNorm", "LayerNorm", "GatedLinear", "Activation", "Xielu", "Gate", "RoundRows"),
        *("PagedAttention", "PagedLatentAttention"),
    ),
    0,
)


# The type in which a product reads its rows, by that of its weights.
ReadAs: TypeAlias = Callable[[ir.DataType], ir.DataType]


def activation_type(weight: ir.DataType) -> ir.DataType:
    """The type in which a product with a weight of this type reads its rows."""
    return ir.DataType.BFLOAT16 if weight == ir.DataType.BFLOAT16 else ir.DataType.FLOAT


def updated_in_place(node: ir.Node) -> list[ir.Value]:
    """The outputs of `node` that are an input's memory."""
    operator = OPERATORS[node.op_type]
    return [value for name, value in zip(operator.outputs, node.outputs, strict=True) if name in operator.in_place]


def reusable_inputs(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """(output, input) pairs of `node` that can be one memory, if nothing else reads the input later."""
    operator = OPERATORS[node.op_type]
    given = dict(zip(operator.inputs, node.inputs, strict=False))
    for name, value in zip(operator.outputs, node.outputs, strict=True):
        source = given.get(operator.may_reuse.get(name, ""))
        if source is not None and sum(other is source for other in node.inputs) == 1:
            yield value, source


def graph_problems(graph: ir.Graph) -> list[str]:
    """One line for each node that is not a well-formed fused operator; empty when all are."""
    return [f"{node.op_type} {node.name}: {text}" for node in graph for text in _node_problems(node)]


def _node_problems(node: ir.Node) -> Iterator[str]:
    if node.domain != DOMAIN or node.op_type not in OPERATORS:
        yield "not an operator of this target"
        return
    operator = OPERATORS[node.op_type]
    if len(node.inputs) > len(operator.inputs) or len(node.outputs) != len(operator.outputs):
        yield f"has {len(node.inputs)} inputs and {len(node.outputs)} outputs"
        return
    given = dict(zip(operator.inputs, node.inputs, strict=False))
    missing = [name for name in operator.inputs if given.get(name) is None and name not in operator.optional]
    if missing:
        yield f"lacks {', '.join(missing)}"
    types = {name: attribute.type for name, attribute in node.attributes.items()}
    if types != dict(operator.attributes):
        yield f"has attributes {sorted(types)}, expected {sorted(operator.attributes)}"
    elif "activation" in types:
        known = (*ACTIVATIONS, *(OF_EXPERTS if "top_k" in types else ()))
        if (name := node.attributes["activation"].as_string()) not in known:
            yield f"has activation {name}, which is none of {', '.join(known)}"
    if node.op_type in PRODUCTS and not missing:
        yield from _product_problems(node)


def _product_problems(node: ir.Node) -> Iterator[str]:
    rows, *weights = [value for value in node.inputs if value is not None]
    matrices = weights[:2] if node.op_type == "GatedLinear" else weights[:1]
    for matrix in matrices:
        if dtype_of(rows) != activation_type(dtype_of(matrix)):
            yield f"reads {dtype_of(rows).name} rows with {dtype_of(matrix).name} weights"
        if node.op_type == "GatedLinear" and dtype_of(node.outputs[0]) != activation_type(dtype_of(matrix)):
            yield f"makes {dtype_of(node.outputs[0]).name} rows with {dtype_of(matrix).name} weights"

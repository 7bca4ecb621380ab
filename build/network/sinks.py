"""Attention with sinks in the standard network: a model-local function, since the operator of the standard has none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.function_body import FunctionBody
from inflight.build.graph.values import new_value
from inflight.build.network.layers import BATCH, BOOL, FLOAT, OPSET, STEP
from inflight.convert.checkpoint.model_spec import AttentionSpec

DOMAIN = "inflight.network.sinks"


def attention_with_sinks(spec: AttentionSpec, max_seq_len: int) -> ir.Function:
    """q [B, heads, L, D], keys and values [B, kv_heads, P, D], mask bool [B, 1, L, P], sinks [heads] -> [B, heads, L,
    D]: one key more, of zeros, whose score is the head's sink, and whose value is zero.
    """
    assert spec.softcap is None, "no cap beside sinks"
    body = FunctionBody()
    cache = (BATCH, spec.num_kv_heads, max_seq_len, spec.head_size)
    inputs = [
        new_value("q", FLOAT, (BATCH, spec.num_heads, STEP, spec.head_size)),
        new_value("keys", FLOAT, cache),
        new_value("values", FLOAT, cache),
        new_value("mask", BOOL, (BATCH, 1, STEP, max_seq_len)),
        new_value("sinks", FLOAT, (spec.num_heads,)),
    ]
    q, keys, values, mask, sinks = inputs
    heads = body.op("Shape", [keys], {"start": 0, "end": 2})
    shape = body.op("Concat", [heads, body.constant([1, spec.head_size])], {"axis": 0})
    zeros = body.op("ConstantOfShape", [shape], {"value": ir.tensor(np.zeros(1, np.float32))})
    longer = [body.op("Concat", [each, zeros], {"axis": 2}) for each in (keys, values)]
    rows = body.op("Shape", [q], {"start": 0, "end": 3})
    hidden, seen = (body.constant(number, np.float32) for number in (-np.inf, 0))
    scores = _expanded(body, body.op("Where", [mask, seen, hidden]), rows, max_seq_len)
    column = body.op("Reshape", [sinks, body.constant([1, spec.num_heads, 1, 1])])
    added = body.op("Concat", [scores, _expanded(body, column, rows, 1)], {"axis": 3})
    y = body.op("Attention", [q, *longer, added], {"scale": spec.scale})
    graph = ir.Graph(inputs, [y], nodes=body.nodes, opset_imports={"": OPSET}, name="attention_with_sinks")
    kind = f"SinkAttention_{spec.num_heads}_{spec.num_kv_heads}_{spec.head_size}_{spec.scale!r}"
    return ir.Function(DOMAIN, kind, graph=graph, attributes=[ir.Attr("scale", ir.AttributeType.FLOAT, None)])


def _expanded(body: FunctionBody, values: ir.Value, rows: ir.Value, width: int) -> ir.Value:
    """[B, heads, L, width]"""
    return body.op("Expand", [values, body.op("Concat", [rows, body.constant([width])], {"axis": 0})])

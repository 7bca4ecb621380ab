"""Multi-head latent attention (DeepSeek-AI, 2024): a linear cache of one row per token, which all heads share.

Queries and results meet the matrices of their heads, and keys and values never exist: a query times its head's matrix
of keys meets the cached rows themselves. What the rows are, and what attention makes of them, are model-local functions
of standard operators; the products are those of any layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.function_body import FunctionBody
from inflight.build.graph.values import new_value, shape_of
from inflight.build.network.layers import BATCH, BOOL, FLOAT, INT64, OPSET, STEP, Layers
from inflight.build.network.shared_inputs import SharedInputs
from inflight.convert.checkpoint.model_spec import AttentionSpec, LatentSpec

# Of the functions; a pass knows their calls by it.
DOMAIN = "inflight.network.latent"
ROWS, ATTENTION = "LatentRows", "LatentAttention"


class LatentAttentionLayer:
    """Attention of one layer whose cache is [B, 1, P, rank + rotary]."""

    def __init__(self, builder: GraphBuilder, layers: Layers, spec: AttentionSpec, index: int) -> None:
        assert spec.latent is not None and spec.rope is not None and spec.window is None
        self._builder = builder
        self._layers = layers
        self._spec = spec
        self._latent = spec.latent
        self._index = index
        self._layer = f"transformer.layers.{index}"
        self._source = f"{self._layer}.attention"
        self._name = f"layers.{index}.attention"

    def __call__(
        self, x: ir.Value, past: Sequence[ir.Value], shared: SharedInputs
    ) -> tuple[ir.Value, Sequence[ir.Value]]:
        """x [B, L, hidden], the one cache -> (delta [B, L, hidden], the present one)."""
        present = self._written(x, past[0], shared)
        context = self._attend(self._queries(x), present, shared)
        return self._layers.linear(context, f"{self._source}.dense", f"{self._name}.dense"), (present,)

    def _queries(self, x: ir.Value) -> ir.Value:
        if self._latent.query_norm is None:
            return self._layers.linear(x, f"{self._source}.q", f"{self._name}.q")
        x = self._layers.linear(x, f"{self._source}.q_a", f"{self._name}.q_a")
        x = self._layers.norm(x, self._latent.query_norm, self._layer, f"{self._name}.q_norm")
        return self._layers.linear(x, f"{self._source}.q_b", f"{self._name}.q")

    def _written(self, x: ir.Value, past: ir.Value, shared: SharedInputs) -> ir.Value:
        norm, weights = self._latent.norm, self._layers.weights
        kv = self._layers.linear(x, f"{self._source}.kv_a", f"{self._name}.kv")
        inputs = [kv, weights.float32(f"{self._layer}.{norm.module}.weight"), *self._angles(shared)]
        shape = (BATCH, 1, STEP, self._spec.cached_elements)
        function, epsilon = rows_function(self._spec, self._latent), {"epsilon": norm.epsilon}
        rows = self._builder.call(function, inputs, f"{self._name}.rows", FLOAT, shape, epsilon)
        written, name = [past, rows, shared.write_index], f"present_key.{self._index}"
        attributes = {"axis": -2, "mode": "linear"}
        return self._builder.op("TensorScatter", written, name, FLOAT, shape_of(past), attributes)

    def _attend(self, query: ir.Value, present: ir.Value, shared: SharedInputs) -> ir.Value:
        weights, spec = self._layers.weights, self._spec
        stacks = [weights.float32(f"{self._source}.{module}.weight") for module in ("k_b", "v_b")]
        inputs = [query, present, *self._angles(shared), shared.mask(spec.sight), *stacks]
        function = attention_function(spec, self._latent, int(shape_of(present)[2]))
        shape = (BATCH, STEP, spec.num_heads * self._latent.value_size)
        return self._builder.call(function, inputs, f"{self._name}.context", FLOAT, shape, {"scale": spec.scale})

    def _angles(self, shared: SharedInputs) -> list[ir.Value]:
        assert self._spec.rope is not None
        return [*shared.rope(self._spec.rope), shared.positions]


def rows_function(spec: AttentionSpec, latent: LatentSpec) -> ir.Function:
    """kv [B, L, rank + rotary], the norm's weight [rank], tables of cosines and sines, positions -> [B, 1, L, rank +
    rotary]: the latent normed, and behind it what turns.
    """
    body, width = FunctionBody(), spec.cached_elements
    inputs = [
        new_value("kv", FLOAT, (BATCH, STEP, width)),
        new_value("norm", FLOAT, (latent.rank,)),
        *_angle_inputs(width - latent.rank),
    ]
    kv, norm, cos, sin, positions = inputs
    head = body.op("Unsqueeze", [kv, body.constant([1])])
    plain, turning = body.ops("Split", [head, body.constant([latent.rank, width - latent.rank])], 2, {"axis": -1})
    normed = body.op("RMSNormalization", [plain, norm], {"axis": -1, "epsilon": latent.norm.epsilon})
    turned = body.op("RotaryEmbedding", [turning, cos, sin, positions])
    rows = body.op("Concat", [normed, turned], {"axis": -1})
    graph = ir.Graph(inputs, [rows], nodes=body.nodes, opset_imports={"": OPSET}, name=ROWS)
    kind = f"{ROWS}_{latent.rank}_{width - latent.rank}_{latent.norm.epsilon!r}"
    return ir.Function(DOMAIN, kind, graph=graph, attributes=[ir.Attr("epsilon", ir.AttributeType.FLOAT, None)])


def attention_function(spec: AttentionSpec, latent: LatentSpec, max_seq_len: int) -> ir.Function:
    """q [B, L, heads * (plain + rotary)], the cached rows [B, 1, P, rank + rotary], tables of cosines and sines,
    positions, mask bool [B, 1, L, P], k_b [heads, rank, plain], v_b [heads, value, rank] -> [B, L, heads * value].
    """
    body, heads, width = FunctionBody(), spec.num_heads, spec.cached_elements
    rotary, row = width - latent.rank, (BATCH, 1, max_seq_len, width)
    inputs = [
        new_value("q", FLOAT, (BATCH, STEP, heads * spec.head_size)),
        new_value("rows", FLOAT, row),
        *_angle_inputs(rotary),
        new_value("mask", BOOL, (BATCH, 1, STEP, max_seq_len)),
        new_value("k_b", FLOAT, (heads, latent.rank, latent.plain_size)),
        new_value("v_b", FLOAT, (heads, latent.value_size, latent.rank)),
    ]
    q, rows, cos, sin, positions, mask, k_b, v_b = inputs
    split = body.op("Reshape", [q, body.constant([0, 0, heads, spec.head_size])])
    by_head = body.op("Transpose", [split], {"perm": [0, 2, 1, 3]})
    plain, turning = body.ops("Split", [by_head, body.constant([latent.plain_size, rotary])], 2, {"axis": -1})
    met = body.op("MatMul", [plain, body.op("Transpose", [k_b], {"perm": [0, 2, 1]})])
    turned = body.op("RotaryEmbedding", [turning, cos, sin, positions])
    queries = body.op("Concat", [met, turned], {"axis": -1})
    values, _ = body.ops("Split", [rows, body.constant([latent.rank, rotary])], 2, {"axis": -1})
    mixed = body.op("Attention", [queries, rows, values, mask], {"scale": spec.scale})
    result = body.op("MatMul", [mixed, body.op("Transpose", [v_b], {"perm": [0, 2, 1]})])
    merged = body.op("Transpose", [result], {"perm": [0, 2, 1, 3]})
    context = body.op("Reshape", [merged, body.constant([0, 0, heads * latent.value_size])])
    graph = ir.Graph(inputs, [context], nodes=body.nodes, opset_imports={"": OPSET}, name=ATTENTION)
    kind = f"{ATTENTION}_{heads}_{spec.head_size}_{latent.rank}_{rotary}_{latent.value_size}_{spec.scale!r}"
    return ir.Function(DOMAIN, kind, graph=graph, attributes=[ir.Attr("scale", ir.AttributeType.FLOAT, None)])


def _angle_inputs(rotary: int) -> list[ir.Value]:
    table = ("positions", rotary // 2)
    return [
        new_value("cos", FLOAT, table),
        new_value("sin", FLOAT, table),
        new_value("positions", INT64, (BATCH, STEP)),
    ]

"""Self-attention over a linear cache: TensorScatter writes the new keys and values, Attention reads the whole cache."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.network.layers import BATCH, FLOAT, STEP, Layers, SharedInputs
from inflight.build.network.weights import Weights
from inflight.convert.checkpoint.config import CheckpointConfig


class AttentionLayer:
    """Attention of one layer. Heads lie on axis 1: [batch, heads, step, head_size]."""

    def __init__(
        self, builder: GraphBuilder, weights: Weights, layers: Layers, config: CheckpointConfig, index: int
    ) -> None:
        self._builder = builder
        self._weights = weights
        self._layers = layers
        self._config = config
        self._index = index
        self._source = f"transformer.layers.{index}.attention"
        self._name = f"layers.{index}.attention"

    def __call__(
        self, x: ir.Value, past_key: ir.Value, past_value: ir.Value, shared: SharedInputs
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """x [B, L, hidden], caches [B, kv_heads, P, D] -> (delta [B, L, hidden], present key, present value)."""
        config = self._config
        query, key, value = self._split(x)
        query = self._rotate(self._heads(query, "q", config.num_attention_heads), "q", shared)
        key = self._rotate(self._heads(key, "k", config.num_key_value_heads), "k", shared)
        value = self._heads(value, "v", config.num_key_value_heads)
        present_key = self._write(past_key, key, f"present_key.{self._index}", shared)
        present_value = self._write(past_value, value, f"present_value.{self._index}", shared)
        context = self._attend(query, present_key, present_value, shared)
        delta = self._layers.linear(context, f"{self._source}.dense", f"{self._name}.dense")
        return delta, present_key, present_value

    def _split(self, x: ir.Value) -> list[ir.Value]:
        query_size = self._config.num_attention_heads * self._config.head_size
        key_size = self._config.num_key_value_heads * self._config.head_size
        sizes = [query_size, key_size, key_size]
        qkv = self._layers.linear(x, f"{self._source}.qkv", f"{self._name}.qkv")
        outputs = [
            (f"{self._name}.{part}", FLOAT, (BATCH, STEP, size)) for part, size in zip("qkv", sizes, strict=True)
        ]
        lengths = self._builder.constant("attention.qkv_sizes", sizes)
        return list(self._builder.ops("Split", [qkv, lengths], f"{self._name}.split", outputs, {"axis": -1}))

    def _heads(self, x: ir.Value, part: str, heads: int) -> ir.Value:
        """[B, L, heads * D] -> [B, heads, L, D], each head normalized when the checkpoint has a norm for it."""
        op, size, name = self._builder.op, self._config.head_size, f"{self._name}.{part}"
        shape = self._builder.constant(f"attention.heads_{heads}", [0, 0, heads, size])
        x = op("Reshape", [x, shape], f"{name}.heads", FLOAT, (BATCH, STEP, heads, size))
        norm = f"{self._source}.{part}_layernorm.weight"
        if norm in self._weights:
            x = self._layers.rms_norm(x, norm, f"{name}.norm")
        return op("Transpose", [x], f"{name}.transposed", FLOAT, (BATCH, heads, STEP, size), {"perm": [0, 2, 1, 3]})

    def _rotate(self, x: ir.Value, part: str, shared: SharedInputs) -> ir.Value:
        inputs = [x, shared.cos, shared.sin, shared.positions]
        return self._builder.op("RotaryEmbedding", inputs, f"{self._name}.{part}.rotated", FLOAT, shape_of(x))

    def _write(self, cache: ir.Value, rows: ir.Value, name: str, shared: SharedInputs) -> ir.Value:
        inputs = [cache, rows, shared.write_index]
        return self._builder.op("TensorScatter", inputs, name, FLOAT, shape_of(cache), {"axis": -2, "mode": "linear"})

    def _attend(self, query: ir.Value, key: ir.Value, value: ir.Value, shared: SharedInputs) -> ir.Value:
        op, config = self._builder.op, self._config
        heads_first = (BATCH, config.num_attention_heads, STEP, config.head_size)
        rows_first = (BATCH, STEP, config.num_attention_heads, config.head_size)
        attributes = {"scale": float(config.head_size**-0.5)}
        context = op(
            "Attention", [query, key, value, shared.mask], f"{self._name}.context.heads", FLOAT, heads_first, attributes
        )
        rows = op("Transpose", [context], f"{self._name}.context.rows", FLOAT, rows_first, {"perm": [0, 2, 1, 3]})
        width = config.num_attention_heads * config.head_size
        shape = self._builder.constant("attention.merged_heads", [0, 0, width])
        return op("Reshape", [rows, shape], f"{self._name}.context", FLOAT, (BATCH, STEP, width))

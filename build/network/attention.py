"""Self-attention over a linear cache: TensorScatter writes the new keys and values, Attention reads the whole cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.network.disentangled import disentangled_mask
from inflight.build.network.layers import BATCH, FLOAT, STEP, Layers
from inflight.build.network.shared_inputs import SharedInputs
from inflight.build.network.sinks import attention_with_sinks
from inflight.convert.checkpoint.layout import POSITIONS
from inflight.convert.checkpoint.model_spec import AttentionSpec, NormSpec


class AttentionLayer:
    """Attention of one layer. Heads lie on axis 1: [batch, heads, step, head_size]."""

    def __init__(self, builder: GraphBuilder, layers: Layers, spec: AttentionSpec, index: int) -> None:
        self._builder = builder
        self._layers = layers
        self._spec = spec
        self._index = index
        self._layer = f"transformer.layers.{index}"
        self._source = f"{self._layer}.attention"
        self._name = f"layers.{index}.attention"

    def __call__(
        self, x: ir.Value, past: Sequence[ir.Value], shared: SharedInputs
    ) -> tuple[ir.Value, Sequence[ir.Value]]:
        """x [B, L, hidden], caches of keys and values [B, kv_heads, P, D] -> (delta [B, L, hidden], present caches)."""
        spec, (past_key, past_value) = self._spec, past
        query, key, value = self._split(x)
        query = self._turned(query, "q", spec.num_heads, spec.q_norm, shared)
        if spec.query_scale is not None:
            factors = shared.query_factors(spec.query_scale)
            query = self._builder.op("Mul", [query, factors], f"{self._name}.q.scaled", FLOAT, shape_of(query))
        key = self._turned(key, "k", spec.num_kv_heads, spec.k_norm, shared)
        value = self._heads(value, "v", spec.num_kv_heads)
        present_key = self._write(past_key, key, f"present_key.{self._index}", shared)
        present_value = self._write(past_value, value, f"present_value.{self._index}", shared)
        context = self._attend(query, present_key, present_value, shared)
        delta = self._layers.linear(context, f"{self._source}.dense", f"{self._name}.dense")
        return delta, (present_key, present_value)

    def _split(self, x: ir.Value) -> list[ir.Value]:
        query_size = self._spec.num_heads * self._spec.head_size
        key_size = self._spec.num_kv_heads * self._spec.head_size
        sizes = [query_size, key_size, key_size]
        qkv = self._layers.linear(x, f"{self._source}.qkv", f"{self._name}.qkv")
        if self._spec.clip is not None:
            limits = [
                self._builder.constant(f"clip.{name}", sign * self._spec.clip, np.float32)
                for name, sign in (("low", -1), ("high", 1))
            ]
            qkv = self._builder.op("Clip", [qkv, *limits], f"{self._name}.clipped", FLOAT, shape_of(qkv))
        outputs = [
            (f"{self._name}.{part}", FLOAT, (BATCH, STEP, size)) for part, size in zip("qkv", sizes, strict=True)
        ]
        lengths = self._builder.constant("attention.qkv_sizes", sizes)
        return list(self._builder.ops("Split", [qkv, lengths], f"{self._name}.split", outputs, {"axis": -1}))

    def _turned(self, x: ir.Value, part: str, heads: int, norm: NormSpec | None, shared: SharedInputs) -> ir.Value:
        """Queries or keys [B, L, heads * D] -> [B, heads, L, D], normed and rotated, in the layer's order."""
        name = f"{self._name}.{part}"
        if norm is not None and self._spec.norm_wide:
            x, norm = self._layers.norm(x, norm, self._layer, f"{name}.norm"), None
        if not self._spec.norm_last:
            return self._rotate(self._heads(x, part, heads, norm), part, shared)
        x = self._rotate(self._heads(x, part, heads), part, shared)
        return x if norm is None else self._layers.norm(x, norm, self._layer, f"{name}.norm")

    def _heads(self, x: ir.Value, part: str, heads: int, norm: NormSpec | None = None) -> ir.Value:
        """[B, L, heads * D] -> [B, heads, L, D], each head normalized when the layer has a norm for it."""
        op, size, name = self._builder.op, self._spec.head_size, f"{self._name}.{part}"
        shape = self._builder.constant(f"attention.heads_{heads}", [0, 0, heads, size])
        x = op("Reshape", [x, shape], f"{name}.heads", FLOAT, (BATCH, STEP, heads, size))
        if norm is not None:
            x = self._layers.norm(x, norm, self._layer, f"{name}.norm")
        return op("Transpose", [x], f"{name}.transposed", FLOAT, (BATCH, heads, STEP, size), {"perm": [0, 2, 1, 3]})

    def _rotate(self, x: ir.Value, part: str, shared: SharedInputs) -> ir.Value:
        rope = self._spec.rope
        if rope is None:
            return x
        inputs = [x, *shared.rope(rope), shared.positions]
        attributes = None if rope.dim == self._spec.head_size else {"rotary_embedding_dim": rope.dim}
        return self._builder.op(
            "RotaryEmbedding", inputs, f"{self._name}.{part}.rotated", FLOAT, shape_of(x), attributes
        )

    def _write(self, cache: ir.Value, rows: ir.Value, name: str, shared: SharedInputs) -> ir.Value:
        inputs = [cache, rows, shared.write_index]
        return self._builder.op("TensorScatter", inputs, name, FLOAT, shape_of(cache), {"axis": -2, "mode": "linear"})

    def _with_distances(self, mask: ir.Value, query: ir.Value, key: ir.Value, positions: ir.Value) -> ir.Value:
        """What disentangled attention adds to scores [B, heads, L, P], minus infinity where `mask` hides a key."""
        distances, length = self._spec.disentangled, int(shape_of(key)[2])
        assert distances is not None and self._spec.bias is None, "products with rows for distances, or a bias"
        columns = self._builder.constant("distances.columns", distances.columns(np.arange(length - 1, -length, -1)))
        rows = self._layers.weights.float32(f"{self._layer}.{POSITIONS}.weight")
        shape = (BATCH, self._spec.num_heads, STEP, length)
        inputs = [mask, positions, query, key, rows, columns]
        function = disentangled_mask(self._spec, length)
        return self._builder.call(function, inputs, f"{self._name}.distances", FLOAT, shape, {})

    def _attend(self, query: ir.Value, key: ir.Value, value: ir.Value, shared: SharedInputs) -> ir.Value:
        op, spec = self._builder.op, self._spec
        heads_first = (BATCH, spec.num_heads, STEP, spec.head_size)
        rows_first = (BATCH, STEP, spec.num_heads, spec.head_size)
        attributes = {"scale": spec.scale} | ({} if spec.softcap is None else {"softcap": spec.softcap})
        mask = shared.mask(spec.sight)
        mask = mask if spec.bias is None else shared.biased(mask, spec.bias, spec.scale)
        mask = mask if spec.disentangled is None else self._with_distances(mask, query, key, shared.positions)
        inputs = [query, key, value, mask]
        name = f"{self._name}.context.heads"
        if spec.sinks:
            assert spec.bias is None, "sinks, or a bias"
            function = attention_with_sinks(spec, int(shape_of(key)[2]))
            inputs.append(self._layers.weights.float32(f"{self._source}.sinks"))
            context = self._builder.call(function, inputs, name, FLOAT, heads_first, attributes)
        else:
            context = op("Attention", inputs, name, FLOAT, heads_first, attributes)
        rows = op("Transpose", [context], f"{self._name}.context.rows", FLOAT, rows_first, {"perm": [0, 2, 1, 3]})
        width = spec.num_heads * spec.head_size
        shape = self._builder.constant("attention.merged_heads", [0, 0, width])
        return op("Reshape", [rows, shape], f"{self._name}.context", FLOAT, (BATCH, STEP, width))

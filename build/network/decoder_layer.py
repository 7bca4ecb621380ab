"""One decoder layer, as its LayerSpec says: attention and MLP, their norms, and the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.network.attention import AttentionLayer
from inflight.build.network.experts.layer import ExpertsLayer
from inflight.build.network.latent import LatentAttentionLayer
from inflight.build.network.layers import FLOAT, Layers
from inflight.build.network.shared_inputs import SharedInputs
from inflight.convert.checkpoint.model_spec import ExpertsSpec, LayerSpec, NormSpec


class DecoderLayer:
    """x += after(attention(before(x))), then the same with the MLP; or both of the same x; or x = after(x + ...)."""

    def __init__(self, builder: GraphBuilder, layers: Layers, spec: LayerSpec, index: int) -> None:
        self._builder = builder
        self._layers = layers
        self._spec = spec
        self._source = f"transformer.layers.{index}"
        self._name = f"layers.{index}"
        kind = AttentionLayer if spec.attention.latent is None else LatentAttentionLayer
        self._attention: AttentionLayer | LatentAttentionLayer = kind(builder, layers, spec.attention, index)

    def __call__(
        self, x: ir.Value, past: Sequence[ir.Value], shared: SharedInputs
    ) -> tuple[ir.Value, Sequence[ir.Value]]:
        """x [B, L, hidden], caches [B, kv_heads, P, D] -> (x, present caches), shaped alike."""
        spec = self._spec
        normed = self._norm(x, spec.before_attention, "input_norm")
        delta, presents = self._attention(normed, past, shared)
        if spec.parallel:
            if spec.before_mlp != spec.before_attention:
                normed = self._norm(x, spec.before_mlp, "post_norm")
            x = self._add(x, delta, None, "attention")
        else:
            x = self._add(x, delta, spec.after_attention, "attention")
            normed = self._norm(x, spec.before_mlp, "post_norm")
        if isinstance(spec.mlp, ExpertsSpec):
            delta = ExpertsLayer(self._builder, self._layers)(normed, spec.mlp, self._source, self._name)
        else:
            delta = self._layers.mlp(normed, spec.mlp, self._source, self._name)
        return self._add(x, delta, spec.after_mlp, "mlp"), presents

    def _norm(self, x: ir.Value, norm: NormSpec | None, name: str) -> ir.Value:
        return x if norm is None else self._layers.norm(x, norm, self._source, f"{self._name}.{name}")

    def _add(self, x: ir.Value, delta: ir.Value, norm: NormSpec | None, part: str) -> ir.Value:
        name = f"{self._name}.{part}"
        if self._spec.norm_sums:
            total = self._builder.op("Add", [x, delta], f"{name}.residual", FLOAT, shape_of(x))
            return self._norm(total, norm, f"{part}.norm")
        delta = self._norm(delta, norm, f"{part}.norm")
        if self._spec.residual_scale != 1.0:
            scale = self._builder.constant("residual_scale", self._spec.residual_scale, np.float32)
            delta = self._builder.op("Mul", [delta, scale], f"{name}.scaled", FLOAT, shape_of(x))
        return self._builder.op("Add", [x, delta], f"{name}.residual", FLOAT, shape_of(x))

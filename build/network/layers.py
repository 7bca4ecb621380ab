"""The parts of a decoder as standard ONNX operators.

Symbols: B batch, L step (tokens of this step per sequence), P max_seq_len, D head size. Activations are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.network.weights import Weights
from inflight.build.network.xielu import xielu_function
from inflight.convert.checkpoint.model_spec import Activation, MlpSpec, ModelSpec, NormSpec, PooledSpec

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
OPSET = 24
BATCH, STEP = "batch", "step"
ACTIVATIONS: Mapping[Activation, tuple[str, Mapping[str, Any]]] = {
    "silu": ("Swish", {}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}


class Layers:
    """Appends layers to a graph. Each method takes and returns values."""

    def __init__(self, builder: GraphBuilder, weights: Weights, spec: ModelSpec) -> None:
        self._builder = builder
        self.weights = weights
        self._spec = spec

    def linear(self, x: ir.Value, prefix: str, name: str, bias_of: str | None = None) -> ir.Value:
        """x [B, L, in] -> [B, L, out]: x times the transpose of `prefix`.weight, plus `prefix`.bias if there is one
        (`bias_of`: that of another module).

        Rows that meet a quantized weight are rounded first.
        """
        op, bias = self._builder.op, f"{bias_of or prefix}.bias"
        transposed = self.weights.transposed(prefix, f"{name}.weight")
        shape = (BATCH, STEP, shape_of(transposed)[-1])
        x = self.weights.rounded_rows(x, prefix, name)
        if bias not in self.weights:
            return op("MatMul", [x, transposed], name, FLOAT, shape)
        product = op("MatMul", [x, transposed], f"{name}.product", FLOAT, shape)
        return op("Add", [product, self.weights.float32(bias)], name, FLOAT, shape)

    def norm(self, x: ir.Value, norm: NormSpec, source: str, name: str) -> ir.Value:
        """x normalized over its last axis: by its root mean square (Zhang and Sennrich, 2019), or by mean and variance
        (Ba et al., 2016). The weights are those of `source`.`norm.module`.
        """
        prefix = f"{source}.{norm.module}"
        if norm.weight:
            inputs = [x, self.weights.float32(f"{prefix}.weight")]
        else:
            inputs = [x, self._builder.constant(f"norm.ones_{norm.size}", np.ones(norm.size), np.float32)]
        if norm.bias:
            inputs.append(self.weights.float32(f"{prefix}.bias"))
        kind = "RMSNormalization" if norm.kind == "rms" else "LayerNormalization"
        return self._builder.op(kind, inputs, name, FLOAT, shape_of(x), {"axis": -1, "epsilon": norm.epsilon})

    def embedding(self, token_ids: ir.Value, positions: ir.Value, token_types: ir.Value | None = None) -> ir.Value:
        """token_ids, positions, token_types [B, L] -> [B, L, hidden]: the token's row, scaled, and those of its type
        and its position if the model has tables of them, normed, and made as wide as the layers, if it has what does
        that, ahead of the norm or behind it. Rows are gathered in their stored type, then cast.
        """
        scale, learned = self._spec.embedding_scale, self._spec.positions is not None
        name = "embedding.tokens" if learned or token_types is not None else "embedding"
        unscaled = name if scale == 1.0 else "embedding.unscaled"
        x = self._looked_up("transformer.vocab_embedding.weight", token_ids, unscaled)
        x = x if scale == 1.0 else self._by_constant("Mul", x, "embedding.scale", scale, name)
        if token_types is not None:
            kind = self._looked_up("transformer.token_type_embedding.weight", token_types, "embedding.types")
            typed = "embedding.typed" if learned else "embedding"
            x = self._builder.op("Add", [x, kind], typed, FLOAT, shape_of(x))
        if learned:
            place = self._looked_up("transformer.position_embedding.weight", positions, "embedding.positions")
            x = self._builder.op("Add", [x, place], "embedding", FLOAT, shape_of(x))
        if self._spec.embedding_norm_last:
            return self._normed(self._widened(x))
        return self._widened(self._normed(x))

    def _normed(self, x: ir.Value) -> ir.Value:
        norm = self._spec.embedding_norm
        return x if norm is None else self.norm(x, norm, "transformer", "embedding_norm")

    def _widened(self, x: ir.Value) -> ir.Value:
        if self._spec.embedding_size is None:
            return x
        return self.linear(x, "transformer.embedding_projection", "embedding.projected")

    def _looked_up(self, table_name: str, numbers: ir.Value, name: str) -> ir.Value:
        table = self.weights.stored(table_name)
        shape = (BATCH, STEP, self._spec.embedding_size or self._spec.hidden_size)
        if table.dtype == FLOAT:
            return self._builder.op("Gather", [table, numbers], name, FLOAT, shape)
        rows = self._builder.op("Gather", [table, numbers], f"{name}.rows", dtype_of(table), shape)
        return self._builder.op("Cast", [rows], name, FLOAT, shape, {"to": FLOAT.value})

    def logits(self, x: ir.Value) -> ir.Value:
        """x [B, L, hidden] -> logits [B, L, vocab], scaled and capped; without lm_head the embedding projects."""
        scale, cap = self._spec.logit_scale, self._spec.logit_softcap
        prefix = "lm_head" if self._spec.lm_head else "transformer.vocab_embedding"
        name = "logits" if scale == 1.0 and cap is None else "logits.projected"
        logits = self.linear(x, prefix, name, bias_of="lm_head")
        if scale != 1.0:
            logits = self._by_constant(
                "Mul", logits, "logits.scale", scale, "logits" if cap is None else "logits.scaled"
            )
        return logits if cap is None else self._capped(logits, cap)

    def states(self, x: ir.Value, pooled: PooledSpec) -> ir.Value:
        """x [B, L, hidden] -> what is pooled of it [B, L, size]: itself, or what a classifier makes of it."""
        classifier = pooled.classifier
        if classifier is None:
            return x
        if classifier.activation is not None:
            x = self.linear(x, "classifier.dense", "head.dense")
        if classifier.activation == "relu":
            x = self._builder.op("Relu", [x], "head.activation", FLOAT, shape_of(x))
        elif classifier.activation == "gelu":
            kind, attributes = ACTIVATIONS["gelu"]
            x = self._builder.op(kind, [x], "head.activation", FLOAT, shape_of(x), attributes)
        elif classifier.activation == "tanh":
            x = self._tanh(x)
        if classifier.norm is not None:
            x = self.norm(x, replace(classifier.norm, module="norm"), "classifier", "head.norm")
        return self.linear(x, "classifier.out", "states")

    def _tanh(self, x: ir.Value) -> ir.Value:
        """As a soft cap at 1, which it is."""
        shares = self._by_constant("Div", x, "head.cap", 1.0, "head.shares")
        bounded = self._builder.op("Tanh", [shares], "head.bounded", FLOAT, shape_of(x))
        return self._by_constant("Mul", bounded, "head.cap", 1.0, "head.activation")

    def _capped(self, logits: ir.Value, cap: float) -> ir.Value:
        """cap * tanh(logits / cap)"""
        shares = self._by_constant("Div", logits, "logits.softcap", cap, "logits.shares")
        bounded = self._builder.op("Tanh", [shares], "logits.bounded", FLOAT, shape_of(logits))
        return self._by_constant("Mul", bounded, "logits.softcap", cap, "logits")

    def mlp(self, x: ir.Value, mlp: MlpSpec, source: str, name: str, module: str = "mlp") -> ir.Value:
        """proj(act(fc(x)) * gate(x)), or without the gate: SwiGLU (Shazeer, 2020) and its kin.

        The network calls the branch that is activated `gate` and the one that multiplies it `up`; the checkpoint calls
        them `fc` and `gate`.
        """
        source, name = f"{source}.{module}", f"{name}.{module}"
        shape = (BATCH, STEP, mlp.size)
        if not mlp.gated:
            hidden = self.linear(x, f"{source}.fc", f"{name}.up")
            activated = self._activated(hidden, mlp.activation, source, name)
            return self.linear(activated, f"{source}.proj", f"{name}.down")
        gate = self.linear(x, f"{source}.fc", f"{name}.gate")
        up = self.linear(x, f"{source}.gate", f"{name}.up")
        activated = self._activated(gate, mlp.activation, source, name)
        product = self._builder.op("Mul", [activated, up], f"{name}.product", FLOAT, shape)
        return self.linear(product, f"{source}.proj", f"{name}.down")

    def _activated(self, x: ir.Value, activation: Activation, source: str, name: str) -> ir.Value:
        """The square of a relu is a product of two, and xielu a function, since the standard has no operators for them.
        `source`: of the MLP, whose activation may have numbers of its own.
        """
        if activation == "xielu":
            inputs = [x, self.weights.float32(f"{source}.act.weight")]
            return self._builder.call(xielu_function(OPSET), inputs, f"{name}.activation", FLOAT, shape_of(x), {})
        kind, attributes = ACTIVATIONS["relu" if activation == "relu2" else activation]
        relu2 = activation == "relu2"
        result = f"{name}.activation"
        y = self._builder.op(kind, [x], f"{name}.relu" if relu2 else result, FLOAT, shape_of(x), attributes)
        return self._builder.op("Mul", [y, y], result, FLOAT, shape_of(x)) if relu2 else y

    def _by_constant(self, kind: str, x: ir.Value, constant: str, number: float, name: str) -> ir.Value:
        operand = self._builder.constant(constant, number, np.float32)
        return self._builder.op(kind, [x, operand], name, FLOAT, shape_of(x))

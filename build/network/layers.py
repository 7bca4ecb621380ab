"""The parts of a Llama-shaped decoder as standard ONNX operators.

Symbols: B batch, L step (tokens of this step per sequence), P max_seq_len, D head size. Activations are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.network.weights import Weights
from inflight.convert.checkpoint.config import CheckpointConfig

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL
BATCH, STEP = "batch", "step"


@dataclass(frozen=True, slots=True)
class SharedInputs:
    """What every layer reads beside the hidden state."""

    positions: ir.Value
    write_index: ir.Value
    cos: ir.Value
    sin: ir.Value
    mask: ir.Value


class Layers:
    """Appends layers to a graph. Each method takes and returns values."""

    def __init__(self, builder: GraphBuilder, weights: Weights, config: CheckpointConfig, max_seq_len: int) -> None:
        self._builder = builder
        self._weights = weights
        self._config = config
        self._max_seq_len = max_seq_len

    def linear(self, x: ir.Value, prefix: str, name: str) -> ir.Value:
        """x [B, L, in] -> [B, L, out]: x times the transpose of `prefix`.weight, plus `prefix`.bias if there is one.

        Rows that meet a quantized weight are rounded first.
        """
        op = self._builder.op
        transposed = self._weights.transposed(prefix, f"{name}.weight")
        shape = (BATCH, STEP, shape_of(transposed)[-1])
        x = self._weights.rounded_rows(x, prefix, name)
        if f"{prefix}.bias" not in self._weights:
            return op("MatMul", [x, transposed], name, FLOAT, shape)
        product = op("MatMul", [x, transposed], f"{name}.product", FLOAT, shape)
        return op("Add", [product, self._weights.float32(f"{prefix}.bias")], name, FLOAT, shape)

    def rms_norm(self, x: ir.Value, weight_name: str, name: str) -> ir.Value:
        """Root mean square normalization (Zhang and Sennrich, 2019) over the last axis."""
        weight = self._weights.float32(weight_name)
        attributes = {"axis": -1, "epsilon": self._config.norm_epsilon}
        return self._builder.op("RMSNormalization", [x, weight], name, FLOAT, shape_of(x), attributes)

    def embedding(self, token_ids: ir.Value) -> ir.Value:
        """token_ids [B, L] -> [B, L, hidden]. Rows are gathered in their stored type, then cast."""
        shape = (BATCH, STEP, self._config.hidden_size)
        table = self._weights.stored("transformer.vocab_embedding.weight")
        if table.dtype == FLOAT:
            return self._builder.op("Gather", [table, token_ids], "embedding", FLOAT, shape)
        rows = self._builder.op("Gather", [table, token_ids], "embedding.rows", dtype_of(table), shape)
        return self._builder.op("Cast", [rows], "embedding", FLOAT, shape, {"to": FLOAT.value})

    def logits(self, x: ir.Value) -> ir.Value:
        """x [B, L, hidden] -> logits [B, L, vocab]; the embedding is the projection when there is no lm_head."""
        tied = "lm_head.weight" not in self._weights
        prefix = "transformer.vocab_embedding" if tied else "lm_head"
        return self.linear(x, prefix, "logits")

    def attention_mask(self, positions: ir.Value) -> ir.Value:
        """bool [B, 1, L, P]: the row at position p sees the keys at p - window + 1 .. p.

        A position lies within 0 .. P - 1, so that every row sees its own key and no row is masked entirely.
        """
        op, constant = self._builder.op, self._builder.constant
        limits = [constant(f"mask.{name}", value) for name, value in _range(self._max_seq_len)]
        keys = op("Range", limits, "mask.keys", INT64, (self._max_seq_len,))
        rows = op("Unsqueeze", [positions, constant("mask.axes", [1, 3])], "mask.rows", INT64, (BATCH, 1, STEP, 1))
        shape = (BATCH, 1, STEP, self._max_seq_len)
        if self._config.sliding_window is None:
            return op("LessOrEqual", [keys, rows], "mask", BOOL, shape)
        window = constant("mask.window", self._config.sliding_window)
        start = op("Sub", [rows, window], "mask.before_window", INT64, (BATCH, 1, STEP, 1))
        causal = op("LessOrEqual", [keys, rows], "mask.causal", BOOL, shape)
        recent = op("Greater", [keys, start], "mask.recent", BOOL, shape)
        return op("And", [causal, recent], "mask", BOOL, shape)

    def mlp(self, x: ir.Value, layer: int) -> ir.Value:
        """SwiGLU (Shazeer, 2020): down(silu(gate(x)) * up(x)). The checkpoint calls the gate `fc` and up `gate`."""
        source, name = f"transformer.layers.{layer}.mlp", f"layers.{layer}.mlp"
        shape = (BATCH, STEP, self._config.intermediate_size)
        gate = self.linear(x, f"{source}.fc", f"{name}.gate")
        up = self.linear(x, f"{source}.gate", f"{name}.up")
        activated = self._builder.op("Swish", [gate], f"{name}.activation", FLOAT, shape)
        product = self._builder.op("Mul", [activated, up], f"{name}.product", FLOAT, shape)
        return self.linear(product, f"{source}.proj", f"{name}.down")

    def add(self, residual: ir.Value, delta: ir.Value, name: str) -> ir.Value:
        return self._builder.op("Add", [residual, delta], name, FLOAT, (BATCH, STEP, self._config.hidden_size))


def _range(end: int) -> list[tuple[str, int]]:
    return [("start", 0), ("end", end), ("one", 1)]

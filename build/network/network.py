"""build_network: a checkpoint becomes a standard ONNX graph, opset 24, with float32 arithmetic.

Quantized weights are DequantizeLinear of integers, and the rows that meet them are rounded to integers and back.

Inputs: token_ids int64 [batch, step]; positions int64 [batch, step], absolute, within 0 .. max_seq_len - 1;
write_index int64 [batch], where in the cache the step is written: the position of its first token;
past_key.{i}, past_value.{i} float32 [batch, kv_heads, max_seq_len, head_size].
Outputs: logits float32 [batch, step, vocab]; present_key.{i}, present_value.{i}, shaped as the caches.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

import inflight
from inflight.build.graph.builder import GraphBuilder
from inflight.build.network.attention import AttentionLayer
from inflight.build.network.layers import BATCH, FLOAT, INT64, STEP, Layers, SharedInputs
from inflight.build.network.rope import rope_tables
from inflight.build.network.weights import Weights
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.errors import BuildError

OPSET = 24
# The ONNX IR version that was released with opset 24.
IR_VERSION = 12


def build_network(checkpoint: Checkpoint, max_seq_len: int) -> ir.Model:
    """The decoder as a graph whose initializers point into the checkpoint's file; no weight is read.

    Raises BuildError when the checkpoint is split over several ranks.
    """
    if len(checkpoint.ranks) != 1:
        raise BuildError(
            f"{checkpoint.directory} is split over {len(checkpoint.ranks)} ranks; an engine is built from one.",
            "Convert the model with --tp-size 1 --pp-size 1.",
        )
    config = checkpoint.config
    builder = GraphBuilder()
    weights = Weights(builder, checkpoint)
    layers = Layers(builder, weights, config, max_seq_len)
    token_ids = builder.input("token_ids", INT64, (BATCH, STEP))
    shared = _shared_inputs(builder, layers, config, max_seq_len)
    caches = [_cache_inputs(builder, config, max_seq_len, index) for index in range(config.num_hidden_layers)]
    x = layers.embedding(token_ids)
    presents: list[ir.Value] = []
    for index, (past_key, past_value) in enumerate(caches):
        source, name = f"transformer.layers.{index}", f"layers.{index}"
        attention = AttentionLayer(builder, weights, layers, config, index)
        normed = layers.rms_norm(x, f"{source}.input_layernorm.weight", f"{name}.input_norm")
        delta, *present = attention(normed, past_key, past_value, shared)
        presents += present
        x = layers.add(x, delta, f"{name}.attention.residual")
        normed = layers.rms_norm(x, f"{source}.post_layernorm.weight", f"{name}.post_norm")
        x = layers.add(x, layers.mlp(normed, index), f"{name}.mlp.residual")
    x = layers.rms_norm(x, "transformer.ln_f.weight", "final_norm")
    graph = builder.graph("decoder", [layers.logits(x), *presents], OPSET)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="inflight", producer_version=inflight.__version__)


def _shared_inputs(builder: GraphBuilder, layers: Layers, config: CheckpointConfig, max_seq_len: int) -> SharedInputs:
    positions = builder.input("positions", INT64, (BATCH, STEP))
    write_index = builder.input("write_index", INT64, (BATCH,))
    cos, sin = rope_tables(config.head_size, config.rotary_base, config.rotary_scaling, max_seq_len)
    return SharedInputs(
        positions=positions,
        write_index=write_index,
        cos=builder.constant("rope.cos", cos, np.float32),
        sin=builder.constant("rope.sin", sin, np.float32),
        mask=layers.attention_mask(positions),
    )


def _cache_inputs(
    builder: GraphBuilder, config: CheckpointConfig, max_seq_len: int, index: int
) -> tuple[ir.Value, ir.Value]:
    shape = (BATCH, config.num_key_value_heads, max_seq_len, config.head_size)
    return (
        builder.input(f"past_key.{index}", FLOAT, shape),
        builder.input(f"past_value.{index}", FLOAT, shape),
    )

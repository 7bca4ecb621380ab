"""build_network: a checkpoint becomes a standard ONNX graph, opset 24, with float32 arithmetic.

Quantized weights are DequantizeLinear of integers, and the rows that meet them are rounded to integers and back.

Inputs: token_ids int64 [batch, step]; token_types, of the same shape, of a model that has them; positions int64
[batch, step], absolute, within 0 .. max_seq_len - 1;
write_index int64 [batch], where in the cache the step is written: the position of its first token;
past_key.{i}, past_value.{i} float32 [batch, kv_heads, max_seq_len, head_size]; of a layer with latent attention the
first alone, [batch, 1, max_seq_len, rank + rotary].
Outputs: logits float32 [batch, step, vocab], or states float32 [batch, step, size] of a model whose hidden states are
pooled; present_key.{i}, present_value.{i}, as the caches.
"""

from __future__ import annotations

import onnx_ir as ir

import inflight
from inflight.build.graph.builder import GraphBuilder
from inflight.build.network.decoder_layer import DecoderLayer
from inflight.build.network.layers import BATCH, FLOAT, INT64, OPSET, STEP, Layers
from inflight.build.network.shared_inputs import SharedInputs
from inflight.build.network.weights import Weights
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import relative_bias_table
from inflight.convert.checkpoint.model_spec import LayerSpec
from inflight.convert.checkpoint.position_spec import BucketsSpec
from inflight.errors import BuildError

# The ONNX IR version that was released with opset 24.
IR_VERSION = 12


def build_network(checkpoint: Checkpoint, max_seq_len: int) -> ir.Model:
    """The decoder as a graph whose initializers point into the checkpoint's file; no weight is read but the few
    numbers of distances, of which a table of all of them is made.

    Raises BuildError when the checkpoint is split over several ranks.
    """
    if len(checkpoint.ranks) != 1:
        raise BuildError(
            f"{checkpoint.directory} is split over {len(checkpoint.ranks)} ranks; an engine is built from one.",
            "Convert the model with --tp-size 1 --pp-size 1.",
        )
    spec = checkpoint.spec
    builder = GraphBuilder()
    layers = Layers(builder, Weights(builder, checkpoint), spec)
    token_ids = builder.input("token_ids", INT64, (BATCH, STEP))
    biases = {layer.attention.bias for layer in spec.layers}
    stored = {each: checkpoint.array(relative_bias_table(each)) for each in biases if isinstance(each, BucketsSpec)}
    shared = SharedInputs(builder, spec, max_seq_len, stored)
    caches = [_cache_inputs(builder, layer, max_seq_len, index) for index, layer in enumerate(spec.layers)]
    token_types = None if spec.token_types is None else builder.input("token_types", INT64, (BATCH, STEP))
    x = layers.embedding(token_ids, shared.positions, token_types)
    presents: list[ir.Value] = []
    for index, (layer, past) in enumerate(zip(spec.layers, caches, strict=True)):
        x, present = DecoderLayer(builder, layers, layer, index)(x, past, shared)
        presents += present
    x = x if spec.final_norm is None else layers.norm(x, spec.final_norm, "transformer", "final_norm")
    result = layers.logits(x) if spec.pooled is None else layers.states(x, spec.pooled)
    graph = builder.graph("decoder", [result, *presents], OPSET)
    return ir.Model(
        graph,
        ir_version=IR_VERSION,
        producer_name="inflight",
        producer_version=inflight.__version__,
        functions=builder.functions,
    )


def _cache_inputs(builder: GraphBuilder, layer: LayerSpec, max_seq_len: int, index: int) -> tuple[ir.Value, ...]:
    if layer.attention.latent is not None:
        row = (BATCH, 1, max_seq_len, layer.attention.cached_elements)
        return (builder.input(f"past_key.{index}", FLOAT, row),)
    shape = (BATCH, layer.attention.num_kv_heads, max_seq_len, layer.attention.head_size)
    return (
        builder.input(f"past_key.{index}", FLOAT, shape),
        builder.input(f"past_value.{index}", FLOAT, shape),
    )

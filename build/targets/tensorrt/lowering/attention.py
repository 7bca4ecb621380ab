"""Lowerings of rotary embedding, the cache's update, and TensorRT's own attention.

A layer's cache is [B, kv_heads, tokens_per_block, head_size] and its update takes packed rows, whatever a block is.
Attention here is over slots of whole sequences. It takes queries in padded rows, so they are gathered for it alone and
scattered back: no fused kernel of TensorRT-RTX 1.7 reads packed queries.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.passes.rewrite import integer, number
from inflight.build.targets.tensorrt.api import Tensor, made
from inflight.build.targets.tensorrt.lowering.cache_layout import KV_LENGTHS, PACKED_ROWS, PADDED_ROWS, QUERY_STARTS
from inflight.build.targets.tensorrt.lowering.layout import DYNAMIC
from inflight.build.targets.tensorrt.lowering.lowered import Operands, as_tensor, host_array
from inflight.build.targets.tensorrt.lowering.writer import NetworkWriter


def rotary_embedding(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """x [T, heads, D] with tables [P, D / 2], halves rotated: each token is a batch of one."""
    x, positions, name = as_tensor(writer, operands[0]), as_tensor(writer, operands[3]), str(node.name)
    assert not integer(node, "interleaved", 0) and not integer(node, "rotary_embedding_dim", 0), name
    cos, sin = (_table(writer, node, index, operands) for index in (1, 2))
    _, heads, size = x.shape
    batched = writer.reshape(x, (DYNAMIC, heads, 1, size), f"{name}.batched")
    column = writer.once("rope.positions", lambda: writer.reshape(positions, (DYNAMIC, 1), "rope.positions"))
    layer = made(writer.network.add_rotary_embedding(batched, cos, sin, False, size), name)
    layer.set_input(3, column)
    return writer.reshape(writer.done(layer, name), (DYNAMIC, heads, size), f"{name}.rows")


def tensor_scatter(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """Writes packed rows [T, kv_heads, D] into the blocks, from write_index on; the output is the cache's memory.

    The rows of a block are neighbours, and blocks come in order; query_starts says how many rows each has.
    """
    cache, rows, index = (as_tensor(writer, operand) for operand in operands)
    name, trt = str(node.name), writer.trt
    rows = writer.cast(rows, cache.dtype)
    layer = made(writer.network.add_kv_cache_update(cache, rows, index, trt.KVCacheMode.LINEAR), name)
    layer.update_form = trt.AttentionIOForm.PACKED_NHD
    layer.update_lengths = writer.paging[QUERY_STARTS]
    return writer.done(layer, name)


def attention(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """Queries [T, heads, D] over the slots under an explicit mask [T, 1, P]; gives float32 [T, heads, D].

    TensorRT does not scale, so the queries are scaled first. Lengths beside the mask let a kernel stop early. Unless
    the type is float32, for which there is no fused kernel, a plan that was built proves that one exists.
    """
    query, key, value, mask = (as_tensor(writer, operand) for operand in operands[:4])
    name, trt = str(node.name), writer.trt
    _, heads, size = query.shape
    scale = writer.scalar(number(node, "scale", size**-0.5), query, f"{name}.scale")
    scaled = writer.cast(writer.elementwise(query, scale, "PROD", f"{name}.scaled"), writer.compute_type)
    padded, padded_mask = _padded(writer, scaled, f"{name}.padded"), _padded_mask(writer, mask)
    layer = made(
        writer.network.add_attention_v2(
            padded, key, value, trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.NONE
        ),
        name,
    )
    layer.name = name
    layer.mask = padded_mask
    layer.key_value_lengths = writer.paging[KV_LENGTHS]
    layer.decomposable = writer.compute == ir.DataType.FLOAT
    rows = writer.transpose(layer.get_output(0), (0, 2, 1, 3), f"{name}.rows_first")
    flat = writer.reshape(rows, (DYNAMIC, heads, size), f"{name}.flat")
    return writer.float32(writer.gather(flat, writer.paging[PACKED_ROWS], f"{name}.packed"))


def _table(writer: NetworkWriter, node: ir.Node, index: int, operands: Operands) -> Tensor:
    """A table of cosines or sines, which all layers share."""
    value = node.inputs[index]
    assert value is not None
    name = str(value.name)
    return writer.once(name, lambda: writer.constant(host_array(operands[index]), name))


def _padded(writer: NetworkWriter, rows: Tensor, name: str) -> Tensor:
    """[T, heads, D] -> [B, heads, L, D]; a padded row repeats some row of the step, and its result is dropped."""
    padded = writer.gather(rows, writer.paging[PADDED_ROWS], f"{name}.rows")
    return writer.transpose(padded, (0, 2, 1, 3), name)


def _padded_mask(writer: NetworkWriter, mask: Tensor) -> Tensor:
    name = f"{mask.name}.padded"
    return writer.once(name, lambda: _padded(writer, mask, name))

"""lower_network: the standard network, written through TensorRT's network API.

Inputs, all int32 unless said; sizes are cache_layout.py's. With either layout: token_ids [T], positions [T];
query_starts [B + 1], cumulative counts of the rows that go to each block; write_index [B], where they start in it;
logit_rows [R]; and past_key.{i}, past_value.{i} [B, kv_heads, tokens_per_block, head_size] in the type of computation.

With slots: kv_lengths [B], tokens in the slot after the step; padded_rows [B, L], the row of each token, or any row
where a sequence has fewer; packed_rows [T], where each token lies in B x L.

With a pool of blocks: sequence_of_row [T]; block_tables [S, W]; decode_rows [D], the rows of single tokens, with their
decode_positions [D] (negative: no row) and decode_sequences [D]; tile_begins, tile_ends [Q], neighbouring rows of one
sequence for prompt attention; attention_rows [T], where each row's result lies among those of decodes and then of all
rows.

Outputs: logits float32 [R, vocab]; present_key.{i}, present_value.{i}, the memory of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from inflight.build.graph.values import array_of, name_of, tensor_of
from inflight.build.passes.dead_code import remove_dead_code
from inflight.build.targets.tensorrt.api import Dims, Enumerator, Module, Network, PagedPlugins, Tensor, made
from inflight.build.targets.tensorrt.lowering.cache_layout import LOGIT_ROWS, SLOTS, CacheLayout
from inflight.build.targets.tensorrt.lowering.host_tensor import HostTensor
from inflight.build.targets.tensorrt.lowering.layout import DYNAMIC, packed_shape
from inflight.build.targets.tensorrt.lowering.logit_rows import first_of_logits
from inflight.build.targets.tensorrt.lowering.lowered import Lowered
from inflight.build.targets.tensorrt.lowering.page_attention import page_attention
from inflight.build.targets.tensorrt.lowering.row_rounding import keep_wide_rows, place_row_scales
from inflight.build.targets.tensorrt.lowering.table import check_operators, lower
from inflight.build.targets.tensorrt.lowering.writer import NetworkWriter, Weight, WeightSource

# Of the standard network's own inputs; caches have B on the first axis. Equal names promise TensorRT equal sizes.
_SIZES = {"token_ids": ("T",), "positions": ("T",), "write_index": ("B",)}


def lower_network(
    trt: Module,
    network: Network,
    graph: ir.Graph,
    weights: WeightSource,
    compute: ir.DataType,
    layout: CacheLayout = SLOTS,
    plugins: PagedPlugins | None = None,
) -> NetworkWriter:
    """Fill `network` with `graph`, which the passes on rounded rows and on paging change.

    `plugins` are needed where the layout pages. The writer that comes back holds memory that TensorRT points into:
    keep it until the build ends. Raises BuildError naming every operator without a lowering, or what TensorRT refused
    to make.
    """
    check_operators(graph)
    if layout.pages:
        page_attention(graph)
    keep_wide_rows(graph)
    place_row_scales(graph)
    remove_dead_code(graph)
    writer = NetworkWriter(trt, network, compute, weights, plugins)
    values: dict[str, Lowered] = {name: _initializer(value) for name, value in graph.initializers.items()}
    for value in graph.inputs:
        values[name_of(value)] = _input(writer, value, layout)
    for name, sizes in layout.inputs.items():
        writer.paging[name] = _named(network, name, trt.DataType.INT32, (DYNAMIC,) * len(sizes), sizes)
    gathered = first_of_logits(graph)
    for node in graph:
        operands = [None if value is None else values[name_of(value)] for value in node.inputs]
        for value, result in zip(node.outputs, lower(writer, node, operands), strict=True):
            if value is gathered:
                assert not isinstance(result, Weight | np.ndarray)
                result = writer.gather(result, writer.paging[LOGIT_ROWS], f"{name_of(value)}.logit_rows")
            values[name_of(value)] = result
    for value in graph.outputs:
        _mark_output(writer, values[name_of(value)], name_of(value))
    return writer


def _initializer(value: ir.Value) -> Lowered:
    """Tensors of the checkpoint lie in its file; what the network generated is known here."""
    if isinstance(tensor_of(value), ir.ExternalTensor):
        return Weight(HostTensor.of(value))
    array = array_of(value)
    assert array is not None
    return array


def _input(writer: NetworkWriter, value: ir.Value, layout: CacheLayout) -> Tensor:
    """Ids and positions are int32; caches are in the type of computation, and as the layout has them."""
    name, shape = name_of(value), packed_shape(value)
    if name in _SIZES:
        return _named(writer.network, name, writer.trt.DataType.INT32, shape, _SIZES[name])
    blocks, heads, max_seq_len, size = shape
    block = (blocks, heads, layout.tokens_per_block(max_seq_len), size)
    return _named(writer.network, name, writer.compute_type, block, ("B",))


def _named(network: Network, name: str, dtype: Enumerator, shape: Dims, sizes: Sequence[str]) -> Tensor:
    tensor = made(network.add_input(name, dtype, shape), name)
    for index, size in enumerate(sizes):
        tensor.set_dimension_name(index, size)
    return tensor


def _mark_output(writer: NetworkWriter, tensor: Lowered, name: str) -> None:
    assert not isinstance(tensor, Weight | np.ndarray), f"{name} is a constant"
    tensor.name = name
    writer.network.mark_output(tensor)

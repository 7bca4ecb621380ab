"""lower_network: the standard network, written through TensorRT's network API.

Inputs, all int32 unless said; B sequences, T tokens, L the longest run of tokens of one sequence, R logit rows:
token_ids [T], positions [T]; write_index [B], where each sequence's tokens start in its slot; query_starts [B + 1],
cumulative token counts; kv_lengths [B], tokens in the slot after the step; padded_rows [B, L], the row of each token, or
any row where a sequence has fewer; packed_rows [T], where each token lies in B x L; logit_rows [R]; and past_key.{i},
past_value.{i} [B, kv_heads, max_seq_len, head_size] in the type of computation.
Outputs: logits float32 [R, vocab]; present_key.{i}, present_value.{i}, the memory of the inputs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.passes.rewrite import only_consumer
from inflight.build.targets.tensorrt.api import Dims, Enumerator, Module, Network, Tensor, made
from inflight.build.targets.tensorrt.layout import DYNAMIC, has_rows, packed_shape
from inflight.build.targets.tensorrt.lower_attention import KV_LENGTHS, PACKED_ROWS, PADDED_ROWS, QUERY_STARTS
from inflight.build.targets.tensorrt.lowered import Lowered
from inflight.build.targets.tensorrt.lowering import check_operators, lower
from inflight.build.targets.tensorrt.writer import NetworkWriter, Weight, WeightSource
from inflight.build.values import array_of, dtype_of, name_of, shape_of, tensor_of

LOGIT_ROWS = "logit_rows"
_PAGING: dict[str, tuple[int, ...]] = {
    QUERY_STARTS: (DYNAMIC,),
    KV_LENGTHS: (DYNAMIC,),
    PADDED_ROWS: (DYNAMIC, DYNAMIC),
    PACKED_ROWS: (DYNAMIC,),
    LOGIT_ROWS: (DYNAMIC,),
}
# Equal names promise TensorRT equal sizes.
_DIMENSION_NAMES = {
    "token_ids": ("T",),
    "positions": ("T",),
    PACKED_ROWS: ("T",),
    "write_index": ("B",),
    KV_LENGTHS: ("B",),
    PADDED_ROWS: ("B", "L"),
    LOGIT_ROWS: ("R",),
}
# Operators that treat rows alike and read rows in one place only: logits are gathered ahead of them.
_ROW_OPERATORS = ("MatMul", "Add", "RMSNormalization")


def lower_network(
    trt: Module, network: Network, graph: ir.Graph, weights: WeightSource, compute: Enumerator
) -> NetworkWriter:
    """Fill `network`. The writer that comes back holds memory that TensorRT points into: keep it until the build ends.

    Raises BuildError naming every operator without a lowering, or what TensorRT refused to make.
    """
    check_operators(graph)
    writer = NetworkWriter(trt, network, compute, weights)
    values: dict[str, Lowered] = {name: _initializer(value) for name, value in graph.initializers.items()}
    for value in graph.inputs:
        values[name_of(value)] = _input(writer, value)
    for name, shape in _PAGING.items():
        writer.paging[name] = _named(network, name, trt.DataType.INT32, shape)
    gathered = rows_of_logits(graph)
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


def rows_of_logits(graph: ir.Graph) -> ir.Value:
    """The value whose rows are gathered for the logits: as early as nothing but the logits reads them."""
    value = graph.outputs[0]
    while True:
        node = value.producer()
        if node is None or node.domain or node.op_type not in _ROW_OPERATORS:
            return value
        rows = [source for source in node.inputs if source is not None and has_rows(shape_of(source))]
        if len(rows) != 1 or only_consumer(rows[0], node.op_type) is not node:
            return value
        value = rows[0]


def _initializer(value: ir.Value) -> Lowered:
    """Tensors of the checkpoint lie in its file; what the network generated is known here."""
    if isinstance(tensor_of(value), ir.ExternalTensor):
        return Weight(value)
    array = array_of(value)
    assert array is not None
    return array


def _input(writer: NetworkWriter, value: ir.Value) -> Tensor:
    """Ids and positions are int32; caches are in the type of computation."""
    kind = writer.compute if dtype_of(value) == ir.DataType.FLOAT else writer.trt.DataType.INT32
    return _named(writer.network, name_of(value), kind, packed_shape(value))


def _named(network: Network, name: str, dtype: Enumerator, shape: Dims) -> Tensor:
    tensor = made(network.add_input(name, dtype, shape), name)
    for index, dimension in enumerate(_DIMENSION_NAMES.get(name, ("B",) if name != QUERY_STARTS else ())):
        tensor.set_dimension_name(index, dimension)
    return tensor


def _mark_output(writer: NetworkWriter, tensor: Lowered, name: str) -> None:
    assert not isinstance(tensor, Weight | np.ndarray), f"{name} is a constant"
    tensor.name = name
    writer.network.mark_output(tensor)

"""lower_network: the standard network, written through TensorRT's network API.

Inputs, all int32 unless said; B sequences, T tokens, L the longest run of tokens of one sequence, R logit rows:
token_ids [T], positions [T]; write_index [B], where each sequence's tokens start in its slot; query_starts [B + 1],
cumulative token counts; kv_lengths [B], tokens in the slot after the step; padded_rows [B, L], the row of each token,
or any row where a sequence has fewer; packed_rows [T], where each token lies in B x L; logit_rows [R]; and
past_key.{i}, past_value.{i} [B, kv_heads, max_seq_len, head_size] in the type of computation.
Outputs: logits float32 [R, vocab]; present_key.{i}, present_value.{i}, the memory of the inputs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.passes.dead_code import remove_dead_code
from inflight.build.targets.tensorrt.api import Dims, Enumerator, Module, Network, Tensor, made
from inflight.build.targets.tensorrt.host_tensor import HostTensor
from inflight.build.targets.tensorrt.layout import DYNAMIC, packed_shape
from inflight.build.targets.tensorrt.logit_rows import first_of_logits
from inflight.build.targets.tensorrt.lower_attention import KV_LENGTHS, PACKED_ROWS, PADDED_ROWS, QUERY_STARTS
from inflight.build.targets.tensorrt.lowered import Lowered
from inflight.build.targets.tensorrt.lowering import check_operators, lower
from inflight.build.targets.tensorrt.row_rounding import keep_wide_rows, place_row_scales
from inflight.build.targets.tensorrt.writer import NetworkWriter, Weight, WeightSource
from inflight.build.values import array_of, dtype_of, name_of, tensor_of

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


def lower_network(
    trt: Module, network: Network, graph: ir.Graph, weights: WeightSource, compute: ir.DataType
) -> NetworkWriter:
    """Fill `network` with `graph`, which the passes on rounded rows change.

    The writer that comes back holds memory that TensorRT points into: keep it until the build ends.

    Raises BuildError naming every operator without a lowering, or what TensorRT refused to make.
    """
    check_operators(graph)
    keep_wide_rows(graph)
    place_row_scales(graph)
    remove_dead_code(graph)
    writer = NetworkWriter(trt, network, compute, weights)
    values: dict[str, Lowered] = {name: _initializer(value) for name, value in graph.initializers.items()}
    for value in graph.inputs:
        values[name_of(value)] = _input(writer, value)
    for name, shape in _PAGING.items():
        writer.paging[name] = _named(network, name, trt.DataType.INT32, shape)
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


def _input(writer: NetworkWriter, value: ir.Value) -> Tensor:
    """Ids and positions are int32; caches are in the type of computation."""
    kind = writer.compute_type if dtype_of(value) == ir.DataType.FLOAT else writer.trt.DataType.INT32
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

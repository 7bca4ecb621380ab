"""Token packing: [batch, step] becomes T rows without padding, linear caches become paged ones.

Every operator but attention treats rows alike, so only shapes change; attention gets its paging inputs. The graph's
interface becomes that of docs/formats/operators.md. Logits are gathered at the rows that want them.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from inflight.build.graph.operators import CACHE_FACTORS, DOMAIN
from inflight.build.graph.values import dtype_of, name_of, new_value, retype, shape_of
from inflight.build.passes.rewrite import fused, nodes_of

TOKENS, LOGIT_ROWS = "T", "R"
_OF_TOKENS = ("token_ids", "positions", "token_types")
_INT32 = ir.DataType.INT32
# Where the fused operators take positions and paging: RopeCacheWrite, PagedAttention.
_PAGING_INPUTS = {
    "RopeCacheWrite": (6, 7),
    "PagedAttention": (4, 5),
    "LatentCacheWrite": (7, 8),
    "PagedLatentAttention": (3, 4),
}
# Which inputs are caches of the operators that write them, and what they are called.
_CACHE_INPUTS = {"RopeCacheWrite": {"key_cache": 8, "value_cache": 9}, "LatentCacheWrite": {"key_cache": 9}}
# A token of a head of integers ends with its float32 scale.
_SCALE_BITS = 32
_INTEGERS = (ir.DataType.INT8, ir.DataType.INT4)


def pack_tokens(
    graph: ir.Graph, *, tokens_per_block: int, kv_dtype: ir.DataType, factors: Sequence[tuple[float, float]] = ()
) -> None:
    """`factors`: of each layer, what its keys and its values are multiplied by when they are read; none: 1."""
    sequence_of_row = new_value("sequence_of_row", _INT32, (TOKENS,))
    block_tables = new_value("block_tables", _INT32, ("S", "blocks_per_sequence"))
    logit_rows = new_value("logit_rows", _INT32, (LOGIT_ROWS,))
    for op_type, indices in _PAGING_INPUTS.items():
        for node in nodes_of(graph, op_type, DOMAIN):
            for index, value in zip(indices, (sequence_of_row, block_tables), strict=True):
                node.replace_input_with(index, value)
    caches = _page_caches(graph, tokens_per_block, kv_dtype)
    _set_factors(graph, factors)
    inputs = {name_of(value): value for value in graph.inputs if value not in caches}
    of_tokens = [inputs.pop(name) for name in _OF_TOKENS if name in inputs]
    leading = [*of_tokens, sequence_of_row, block_tables, logit_rows]
    _pack_shapes(graph)
    for value in of_tokens:
        retype(value, _INT32)
    graph.inputs[:] = [*leading, *caches, *inputs.values()]
    _gather_logits(graph, logit_rows)


def _page_caches(graph: ir.Graph, tokens_per_block: int, kv_dtype: ir.DataType) -> list[ir.Value]:
    """Give each operator that writes caches paged ones, in place of the linear ones; return the caches in layer
    order."""
    caches: list[ir.Value] = []
    writes = [node for node in graph if node.domain == DOMAIN and node.op_type in _CACHE_INPUTS]
    for layer, node in enumerate(writes):
        inputs = _CACHE_INPUTS[node.op_type]
        for (name, index), present in zip(inputs.items(), node.outputs[1:], strict=True):
            cache = node.inputs[index]
            assert cache is not None, f"{node.op_type} has caches from the start"
            _, heads, _, size = shape_of(cache)
            elements = int(size) + (_SCALE_BITS // int(kv_dtype.bitwidth) if kv_dtype in _INTEGERS else 0)
            if present.is_graph_output():
                graph.outputs.remove(present)
            present.name = f"{name}.{layer}.written"
            cache.name = f"{name}.{layer}"
            for value in (cache, present):
                retype(value, kv_dtype)
                value.shape = ir.Shape(("blocks", heads, tokens_per_block, elements))
            caches.append(cache)
    return caches


def _set_factors(graph: ir.Graph, factors: Sequence[tuple[float, float]]) -> None:
    for op_type in _PAGING_INPUTS:
        for node, pair in zip(nodes_of(graph, op_type, DOMAIN), factors, strict=False):
            for name, factor in zip(CACHE_FACTORS, pair, strict=True):
                if name in node.attributes:
                    node.attributes[name] = ir.AttrFloat32(name, factor)


def _pack_shapes(graph: ir.Graph) -> None:
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        shape = shape_of(value)
        if shape[:2] == ("batch", "step"):
            value.shape = ir.Shape((TOKENS, *shape[2:]))


def _gather_logits(graph: ir.Graph, logit_rows: ir.Value) -> None:
    everything = graph.outputs[0]
    name, vocab = name_of(everything), shape_of(everything)[-1]
    everything.name = f"{name}.all_rows"
    gathered = new_value(name, dtype_of(everything), (LOGIT_ROWS, vocab))
    node = fused("GatherRows", [everything, logit_rows], [gathered])
    graph.append(node)
    graph.outputs[0] = gathered

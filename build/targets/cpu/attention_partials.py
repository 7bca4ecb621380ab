"""Workspace for the results of the splits of a long context in attention, until they are merged."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.engine_format.manifest import Limits

SPLIT_TOKENS = 256  # kernels/attention_work.h
_LANES = 16
_LONGEST_SEQUENCES = 4


def partial_rows(limits: Limits) -> int:
    """How many (row, split) pairs fit: the rows of four of the longest sequences. A step with more keeps more rows in
    one piece of work each; no result depends on it."""
    return _LONGEST_SEQUENCES * -(-limits.max_seq_len // SPLIT_TOKENS)


def partial_bytes(graph: ir.Graph, limits: Limits) -> int:
    """Bytes for the layer that needs most: per pair and query head, a float32 maximum, a sum and D weighted values."""
    widest = 0
    for node in graph:
        if node.op_type in ("PagedAttention", "PagedLatentAttention"):
            heads = node.attributes["num_heads"].as_int()
            size = int(shape_of(node.outputs[0])[-1]) // heads
            widest = max(widest, heads * (-(-size // _LANES) * _LANES + 2))
    return 4 * widest * partial_rows(limits)

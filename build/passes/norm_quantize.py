"""A norm whose rows are read as integers alone yields them itself: RMSNormQuantize, AddRMSNormQuantize."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.operators import DOMAIN
from inflight.build.passes.rewrite import fused, integer, like, nodes_of, number, only_consumer, replace

_NORMS = ("RMSNorm", "AddRMSNorm")


def fuse_norm_quantize(graph: ir.Graph) -> None:
    for norm in [node for op_type in _NORMS for node in nodes_of(graph, op_type, DOMAIN)]:
        *sums, normed = norm.outputs
        quantize = only_consumer(normed, "QuantizeRows", DOMAIN)
        if quantize is None:
            continue
        replaced = [*sums, *quantize.outputs]
        attributes = {"epsilon": number(norm, "epsilon", 0.0), "bits": integer(quantize, "bits", 0)}
        node = fused(f"{norm.op_type}Quantize", norm.inputs, [like(value) for value in replaced], attributes)
        graph.insert_before(norm, node)
        replace(graph, replaced, node.outputs)

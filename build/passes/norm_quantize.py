"""A norm whose rows are read rounded alone rounds them itself: RMSNormQuantize."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.passes.rewrite import fused, like, nodes_of, number, only_consumer, replace


def fuse_norm_quantize(graph: ir.Graph) -> None:
    for norm in nodes_of(graph, "RMSNorm", DOMAIN):
        quantize = only_consumer(norm.outputs[0], "QuantizeRows", DOMAIN)
        if quantize is None or len(norm.inputs) > 2:
            continue
        attributes = {"epsilon": number(norm, "epsilon", 0.0), "type": quantize.attributes["type"].as_string()}
        outputs = [like(value) for value in quantize.outputs]
        node = fused("RMSNormQuantize", [*norm.inputs, *quantize.inputs[1:]], outputs, attributes)
        graph.insert_before(norm, node)
        replace(graph, quantize.outputs, node.outputs)

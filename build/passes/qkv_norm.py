"""Norms of queries and keys over all their heads, behind the Split of q, k and v, become QkvNorm ahead of it."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import DOMAIN
from inflight.build.graph.values import dtype_of, name_of, new_value, shape_of
from inflight.build.passes.rewrite import fused, nodes_of, number, only_consumer, replace


def fuse_qkv_norm(graph: ir.Graph) -> None:
    for split in nodes_of(graph, "Split"):
        if len(split.outputs) != 3 or split.inputs[0] is None:
            continue
        query, key, _ = split.outputs
        norms = [only_consumer(value, "RMSNorm", DOMAIN) for value in (query, key)]
        if norms[0] is None or norms[1] is None:
            continue
        epsilons = {number(norm, "epsilon", 0.0) for norm in norms if norm is not None}
        if len(epsilons) > 1 or any(len(norm.inputs) > 2 for norm in norms if norm is not None):
            continue
        qkv = split.inputs[0]
        weights = [norm.inputs[1] for norm in norms if norm is not None]
        result = new_value(f"{name_of(qkv)}.normed", dtype_of(qkv), shape_of(qkv))
        node = fused("QkvNorm", [qkv, *weights], [result], {"epsilon": epsilons.pop()})
        graph.insert_before(split, node)
        split.replace_input_with(0, result)
        for norm, part in zip(norms, (query, key), strict=True):
            assert norm is not None, "both are there"
            replace(graph, norm.outputs, [part])

"""RMSNormalization of whole rows [batch, step, hidden] by a stored weight becomes RMSNorm.

The norms of single heads (rank 4) are left to the pass that fuses them with the rotary embedding.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import fused, integer, like, nodes_of, number, replace, stored

_DEFAULT_EPSILON = 1e-5


def fuse_rms_norm(graph: ir.Graph) -> None:
    for norm in nodes_of(graph, "RMSNormalization"):
        x, weight = norm.inputs[0], stored(norm.inputs[1])
        if x is None or weight is None or len(shape_of(x)) != 3 or integer(norm, "axis", -1) not in (-1, 2):
            continue
        attributes = {"epsilon": number(norm, "epsilon", _DEFAULT_EPSILON)}
        node = fused("RMSNorm", [x, weight], [like(norm.outputs[0])], attributes)
        graph.insert_before(norm, node)
        replace(graph, norm.outputs, node.outputs)

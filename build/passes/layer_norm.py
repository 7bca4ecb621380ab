"""LayerNormalization of whole rows [batch, step, hidden] by a stored weight, and perhaps a bias, becomes LayerNorm."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import fused, integer, like, nodes_of, number, replace, stored

_DEFAULT_EPSILON = 1e-5


def fuse_layer_norm(graph: ir.Graph) -> None:
    for norm in nodes_of(graph, "LayerNormalization"):
        x, *given = norm.inputs
        stored_values = [stored(value) for value in given if value is not None]
        if x is None or len(shape_of(x)) != 3 or integer(norm, "axis", -1) not in (-1, 2) or len(norm.outputs) != 1:
            continue
        if None in stored_values:
            continue
        attributes = {"epsilon": number(norm, "epsilon", _DEFAULT_EPSILON)}
        node = fused("LayerNorm", [x, *stored_values], [like(norm.outputs[0])], attributes)
        graph.insert_before(norm, node)
        replace(graph, norm.outputs, node.outputs)

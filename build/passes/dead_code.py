"""Dead code elimination: removes unread nodes, initializers, and inputs that token packing made unused."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.passes.rewrite import drop_unused

_OBSOLETE_INPUTS = ("write_index",)


def remove_dead_code(graph: ir.Graph) -> None:
    drop_unused(graph, list(graph))
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    for value in list(graph.inputs):
        if value.name in _OBSOLETE_INPUTS and not value.uses():
            graph.inputs.remove(value)

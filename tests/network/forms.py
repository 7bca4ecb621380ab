"""Networks in forms that no Llama has, made of a Llama's."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def without_rotation(graph: ir.Graph, rotations: Sequence[ir.Node]) -> None:
    for node in rotations:
        source = node.inputs[0]
        assert source is not None, f"{node.name} rotates nothing"
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)

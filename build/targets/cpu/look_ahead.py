"""Prefetch across operators: each thread prefetches the panels of the next product before a product ends."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.values import shape_of
from inflight.build.targets.cpu.packing.weight_layout import PANEL, STRIP, PackedTensor, WeightLayout

_LOOKUP = "EmbeddingLookup"
# Which of their panels they read is known when they run.
_EXPERTS = ("Experts", "QuantizedExperts")


def expectations(graph: ir.Graph, weights: WeightLayout) -> list[str]:
    """One C statement per node: nothing, or pool_expect before a product that another one follows."""
    panels = [None if node.op_type == _LOOKUP else _panels_of(node, weights) for node in graph]
    statements = []
    expected: PackedTensor | None = None
    for node, tensor in zip(reversed(list(graph)), reversed(panels), strict=True):
        reads = tensor is not None or node.op_type in _EXPERTS
        statements.append(_expect(expected) if reads and expected else "")
        expected = tensor or expected
    return statements[::-1]


def _panels_of(node: ir.Node, weights: WeightLayout) -> PackedTensor | None:
    names = {value.name for value in node.inputs if value is not None}
    for tensor in weights.tensors:
        if tensor.layout.endswith(("panels", "strips")) and all(source.name in names for source in tensor.sources):
            return tensor
    return None


def _expect(tensor: PackedTensor) -> str:
    whole = STRIP if tensor.layout == "strips" else PANEL
    columns = whole // 2 if tensor.layout.startswith("gated") else whole
    shape = shape_of(tensor.sources[0])
    panels = -(-int(shape[-2]) // columns) * (int(shape[0]) if tensor.layout == "head_panels" else 1)
    return f"pool_expect(p, thread, e->weights + {tensor.offset}, {panels}, {tensor.nbytes // panels});"

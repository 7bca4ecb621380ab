"""What the packed weights file holds, and where: an entry per tensor that a kernel reads, in the order of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import onnx_ir as ir

from inflight.build.values import dtype_of, name_of, shape_of
from inflight.errors import BuildError

PANEL = 64
ALIGNMENT = 4096

Layout = Literal["panels", "gated_panels", "rows", "floats"]
Element = Literal["F32", "F16", "BF16"]

ELEMENTS: dict[ir.DataType, Element] = {
    ir.DataType.FLOAT: "F32",
    ir.DataType.FLOAT16: "F16",
    ir.DataType.BFLOAT16: "BF16",
}
ELEMENT_BYTES: dict[Element, int] = {"F32": 4, "F16": 2, "BF16": 2}
GROUP: dict[Element, int] = {"F32": 1, "F16": 1, "BF16": 2}


@dataclass(frozen=True)
class PackedTensor:
    """One entry of the weights file.

    panels: (out, in) as ceil(out / 64) panels of [in / group][64][group], zero columns at the end (kernels/linear.h).
    gated_panels: two of them, gate and up, 16 columns in turn. rows: as in the checkpoint. floats: float32, zeros up
    to a multiple of 64 elements. `offset` and `nbytes` are bytes in the file; `element` is the type at rest.
    """

    layout: Layout
    sources: tuple[ir.Value, ...]
    element: Element
    offset: int
    nbytes: int


class WeightLayout:
    """The entries of one engine. Raises BuildError for a weight type that no kernel reads."""

    def __init__(self, graph: ir.Graph) -> None:
        self.tensors: list[PackedTensor] = []
        self._index: dict[tuple[Layout, tuple[str, ...]], PackedTensor] = {}
        self.total_bytes = 0
        projections = {name_of(value) for layout, (value, *_) in _uses(graph) if layout == "panels"}
        for layout, sources in _uses(graph):
            # A tied embedding is looked up in the packed projection.
            if not (layout == "rows" and name_of(sources[0]) in projections):
                self._add(layout, sources)

    def find(self, layout: Layout, *sources: ir.Value) -> PackedTensor | None:
        return self._index.get((layout, tuple(name_of(value) for value in sources)))

    def _add(self, layout: Layout, sources: tuple[ir.Value, ...]) -> None:
        key = (layout, tuple(name_of(value) for value in sources))
        if key in self._index:
            return
        element = "F32" if layout == "floats" else element_of(sources[0])
        nbytes = _packed_bytes(layout, element, [_sizes(value) for value in sources])
        tensor = PackedTensor(layout, sources, element, self.total_bytes, nbytes)
        self._index[key] = tensor
        self.tensors.append(tensor)
        self.total_bytes += -(-nbytes // ALIGNMENT) * ALIGNMENT


def element_of(value: ir.Value) -> Element:
    """The kernels' name of a value's type."""
    element = ELEMENTS.get(dtype_of(value))
    if element is None:
        raise BuildError(f"{value.name} is {dtype_of(value).name}; the cpu target reads float32, float16 and bfloat16.")
    return element


def _sizes(value: ir.Value) -> tuple[int, ...]:
    shape = shape_of(value)
    assert all(isinstance(dim, int) for dim in shape), f"{value.name} is a weight and has no fixed shape"
    return tuple(int(dim) for dim in shape)


def _packed_bytes(layout: Layout, element: Element, shapes: list[tuple[int, ...]]) -> int:
    if layout in ("rows", "floats"):
        padded = -(-prod(shapes[0]) // PANEL) * PANEL
        return padded * ELEMENT_BYTES[element]
    out_features, in_features = shapes[0]
    columns_per_panel = PANEL // len(shapes)
    groups = -(-in_features // GROUP[element]) * GROUP[element]
    return -(-out_features // columns_per_panel) * groups * PANEL * ELEMENT_BYTES[element]


def _uses(graph: ir.Graph) -> Iterator[tuple[Layout, tuple[ir.Value, ...]]]:
    """Every use of a weight, in the order of the graph. Operators without weights, and unknown ones, use none."""
    for node in graph:
        for layout, positions in _WEIGHT_INPUTS.get(node.op_type, ()):
            sources = tuple(node.inputs[p] for p in positions if p < len(node.inputs))
            given = tuple(value for value in sources if value is not None)
            if given:
                yield layout, given


# The inputs of each operator that are weights, and how its kernel reads them.
_WEIGHT_INPUTS: dict[str, tuple[tuple[Layout, tuple[int, ...]], ...]] = {
    "EmbeddingLookup": (("rows", (1,)),),
    "RMSNorm": (("floats", (1,)),),
    "AddRMSNorm": (("floats", (2,)),),
    "Linear": (("panels", (1,)), ("floats", (2,))),
    "GatedLinear": (("gated_panels", (1, 2)),),
    "RopeCacheWrite": (("floats", (1,)), ("floats", (2,)), ("floats", (3,)), ("floats", (4,))),
}

"""Layout of the packed weights file: an entry per tensor that a kernel reads, in the order of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from math import prod
from typing import Literal, NamedTuple

import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of
from inflight.build.graph.quantized_rows import are_multiples
from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.targets.cpu.packing.float8_panels import Float8Shape
from inflight.build.targets.cpu.packing.quantized_panels import QuantizedShape
from inflight.errors import BuildError

PANEL, STRIP = 64, 16
ALIGNMENT = 4096

Layout = Literal[
    "panels",
    "gated_panels",
    "quantized_panels",
    "gated_quantized_panels",
    "head_panels",
    "strips",
    "experts",
    "gated_experts",
    "quantized_experts",
    "gated_quantized_experts",
    "expert_floats",
    "gated_expert_floats",
    "rows",
    "floats",
    "gated_floats",
    "numbers",
]
Element = Literal["F32", "F16", "BF16"]
NUMBER_BYTES = 4
ScaleElement = Literal["F32", "F16", "BF16", "I8"]
QuantizedPanels = QuantizedShape | Float8Shape

ELEMENT_BYTES: dict[Element, int] = {"F32": 4, "F16": 2, "BF16": 2}
GROUP: dict[Element, int] = {"F32": 1, "F16": 1, "BF16": 2}


@dataclass(frozen=True)
class PackedTensor:
    """One entry of the weights file.

    panels: (out, in) as ceil(out / 64) panels of [in / group][64][group], zero columns at the end
    (kernels/linear.h). gated_panels: two of them, gate and up, 16 columns in turn. quantized_panels,
    gated_quantized_panels: the same of levels with their scales (quantized_panels.py, float8_panels.py); sources
    are each weight and its scales, then the zero points of each, if there are some, or the units of scales that are
    int8. strips: (out, in) of a router as ceil(out / 16) strips of [in][16] (kernels/strips.h). head_panels (of
    heads, all of which are read), experts, gated_experts: the panels, or gated panels, of each matrix of a stack,
    one behind the other; of gated ones the second half is activated; and so quantized_experts and
    gated_quantized_experts, whose levels are one flat matrix [experts * out, in], and their biases, expert_floats
    and gated_expert_floats, each as wide as the panels. `experts`: how many there are. rows: as in the checkpoint.
    floats: float32, zeros up to a multiple of 64 elements. gated_floats: two of them, side by side as the columns
    of gated panels are. numbers: int32, as in the checkpoint. `offset` and `nbytes` are bytes in the file; `element`
    is the type at rest, of the scales (or units) where weights are quantized.
    """

    layout: Layout
    sources: tuple[ir.Value, ...]
    element: Element
    offset: int
    nbytes: int
    quantized: QuantizedPanels | None = None
    experts: int = 1


class _Use(NamedTuple):
    layout: Layout
    sources: tuple[ir.Value, ...]
    group_size: int = 0
    experts: int = 1


class WeightLayout:
    """The entries of one engine. Raises BuildError for a weight type that no kernel reads."""

    def __init__(self, graph: ir.Graph) -> None:
        self.tensors: list[PackedTensor] = []
        self._index: dict[tuple[Layout, tuple[str, ...]], PackedTensor] = {}
        self.total_bytes = 0
        uses = list(_uses(graph))
        projections = {name_of(use.sources[0]) for use in uses if use.layout == "panels"}
        for use in uses:
            # A tied embedding is looked up in the packed projection.
            if not (use.layout == "rows" and name_of(use.sources[0]) in projections):
                self._add(use)

    @property
    def lookup_bytes(self) -> int:
        """Size of the lookup tables at the start of the file, which are read row by row."""
        tables = list(takewhile(lambda tensor: tensor.layout == "rows", self.tensors))
        return tables[-1].offset + tables[-1].nbytes if tables else 0

    @property
    def matrix_bytes(self) -> int:
        """Of all matrices that are multiplied whole, with their scales: experts are not."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.layout.endswith(("panels", "strips")))

    def find(self, layout: Layout, *sources: ir.Value) -> PackedTensor | None:
        return self._index.get((layout, tuple(name_of(value) for value in sources)))

    def _add(self, use: _Use) -> None:
        key = (use.layout, tuple(name_of(value) for value in use.sources))
        if key in self._index:
            return
        tensor = _quantized(use, self.total_bytes) if "quantized" in use.layout else _plain(use, self.total_bytes)
        self._index[key] = tensor
        self.tensors.append(tensor)
        self.total_bytes += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _plain(use: _Use, offset: int) -> PackedTensor:
    if use.layout == "numbers":
        return PackedTensor("numbers", use.sources, "F32", offset, prod(_sizes(use.sources[0])) * NUMBER_BYTES)
    element = "F32" if use.layout.endswith("floats") else element_of(use.sources[0])
    nbytes = _packed_bytes(use.layout, element, [_sizes(value) for value in use.sources])
    return PackedTensor(use.layout, use.sources, element, offset, nbytes)


def _quantized(use: _Use, offset: int) -> PackedTensor:
    weight, scale = use.sources[:2]
    stacked = use.layout.endswith("experts")
    matrices = 2 if use.layout.startswith("gated") and not stacked else 1
    shape = quantized_panels(weight, scale, use.group_size, zeros=len(use.sources) > 2 * matrices)
    outputs = _sizes(weight)[0] // use.experts
    columns = PANEL // 2 if use.layout.startswith("gated") else PANEL
    panels = -(-(outputs // 2 if use.layout == "gated_quantized_experts" else outputs) // columns)
    element = "F32" if are_multiples(scale) else element_of(scale)
    nbytes = use.experts * panels * shape.panel_bytes
    return PackedTensor(use.layout, use.sources, element, offset, nbytes, shape, use.experts)


def quantized_panels(weight: ir.Value, scale: ir.Value, group_size: int, *, zeros: bool) -> QuantizedPanels:
    """How levels [N, K] in groups of `group_size` (0: a row is one group) are packed, `zeros` with zero points."""
    dtype, width = facts_of(dtype_of(weight)), _sizes(weight)[1]
    if dtype.name == "float8_e4m3fn":
        return Float8Shape(width, group_size if 0 < group_size < width else width)
    if dtype.name not in ("int8", "int4", "uint4"):
        raise BuildError(f"{weight.name} is {dtype.name}; quantized weights are int8, int4, uint4 or float8_e4m3fn.")
    group = group_size if 0 < group_size < width else width
    multiples = are_multiples(scale)
    scale_bytes, coded = 1 if multiples else ELEMENT_BYTES[element_of(scale)], dtype.name == "uint4"
    return QuantizedShape(dtype.bits, width, group, scale_bytes, zeros and not multiples, coded, multiples)


def scale_element(scale: ir.Value) -> ScaleElement:
    """The kernels' name of the type of scales."""
    return "I8" if are_multiples(scale) else element_of(scale)


def element_of(value: ir.Value) -> Element:
    """The kernels' name of a value's type."""
    found = facts_of(dtype_of(value)).c
    for element in ELEMENT_BYTES:
        if element == found:
            return element
    raise BuildError(f"{value.name} is {dtype_of(value).name}; the cpu target reads float32, float16 and bfloat16.")


def _sizes(value: ir.Value) -> tuple[int, ...]:
    shape = shape_of(value)
    assert all(isinstance(dim, int) for dim in shape), f"{value.name} is a weight and has no fixed shape"
    return tuple(int(dim) for dim in shape)


def _packed_bytes(layout: Layout, element: Element, shapes: list[tuple[int, ...]]) -> int:
    if layout.endswith("expert_floats"):
        count, outputs = shapes[0]
        one: list[tuple[int, ...]] = [(outputs // 2,)] if layout.startswith("gated") else [(outputs,)]
        return count * _packed_bytes("gated_floats" if layout.startswith("gated") else "floats", element, one)
    if layout in ("rows", "floats"):
        padded = -(-prod(shapes[0]) // PANEL) * PANEL
        return padded * ELEMENT_BYTES[element]
    if layout == "gated_floats":
        return -(-shapes[0][0] // (PANEL // 2)) * PANEL * ELEMENT_BYTES[element]
    if layout.endswith("experts") or layout == "head_panels":
        count, outputs, inputs = shapes[0]
        gated = layout == "gated_experts"
        pair: list[tuple[int, ...]] = [(outputs // 2, inputs)] * 2 if gated else [(outputs, inputs)]
        return count * _packed_bytes("gated_panels" if gated else "panels", element, pair)
    out_features, in_features = shapes[0]
    if layout == "strips":
        return -(-out_features // STRIP) * STRIP * in_features * ELEMENT_BYTES[element]
    columns_per_panel = PANEL // len(shapes)
    groups = -(-in_features // GROUP[element]) * GROUP[element]
    return -(-out_features // columns_per_panel) * groups * PANEL * ELEMENT_BYTES[element]


def _uses(graph: ir.Graph) -> Iterator[_Use]:
    """Every use of a weight, in the order of the graph. Operators without weights, and unknown ones, use none."""
    for node in graph:
        for layout, positions in _WEIGHT_INPUTS.get(node.op_type, ()):
            sources = tuple(node.inputs[p] for p in positions if p < len(node.inputs))
            given = tuple(value for value in sources if value is not None)
            if given:
                of_router = layout == "panels" and _routes(node)
                yield _Use("strips" if of_router else layout, given, *_grouping(node, layout))


def _routes(node: ir.Node) -> bool:
    """True for a product in float32 that yields the logits of experts and nothing else."""
    weight, users = node.inputs[1], node.outputs[0].consumers()
    assert weight is not None, f"{node.name} has no weight"
    alone = len(node.inputs) <= _RESIDUAL or node.inputs[_RESIDUAL] is None
    return alone and element_of(weight) == "F32" and bool(users) and all(user.op_type in _MIXTURES for user in users)


def _grouping(node: ir.Node, layout: Layout) -> tuple[int, int]:
    """The size of the groups of a quantized weight, and how many experts share it."""
    if "quantized" not in layout:
        return 0, 1
    size = "inner_group_size" if layout == "quantized_experts" else "group_size"
    experts = node.attributes["experts"].as_int() if layout.endswith("experts") else 1
    return node.attributes[size].as_int(), experts


_RESIDUAL = 3  # of the inputs of Linear
_MIXTURES = ("Experts", "QuantizedExperts")
# The inputs of each operator that are weights, and how its kernel reads them.
_WEIGHT_INPUTS: dict[str, tuple[tuple[Layout, tuple[int, ...]], ...]] = {
    "EmbeddingLookup": (("rows", (1,)),),
    "RMSNorm": (("floats", (1,)),),
    "QkvNorm": (("floats", (1,)), ("floats", (2,))),
    "LayerNorm": (("floats", (1,)), ("floats", (2,))),
    "Linear": (("panels", (1,)), ("floats", (2,))),
    "GatedLinear": (("gated_panels", (1, 2)), ("gated_floats", (3, 4))),
    "QuantizeRows": (("floats", (4,)), ("numbers", (5,))),
    "RMSNormQuantize": (("floats", (1,)),),
    "QuantizedLinear": (("quantized_panels", (2, 3, 5, 8)), ("floats", (4,))),
    "QuantizedGatedLinear": (("gated_quantized_panels", (2, 3, 4, 5, 8, 9, 11, 12)), ("gated_floats", (6, 7))),
    "HeadLinear": (("head_panels", (1,)),),
    "LatentCacheWrite": (("floats", (3,)), ("floats", (4,)), ("floats", (5,))),
    "Experts": (
        ("gated_experts", (1,)),
        ("experts", (2,)),
        ("gated_expert_floats", (5,)),
        ("expert_floats", (6,)),
        ("floats", (7,)),
    ),
    "QuantizedExperts": (
        ("gated_quantized_experts", (2, 3, 10, 14)),
        ("quantized_experts", (4, 5, 11, 15)),
        ("gated_expert_floats", (8,)),
        ("expert_floats", (9,)),
        ("floats", (16,)),
    ),
    "PagedAttention": (("floats", (6,)), ("floats", (7,)), ("numbers", (9,))),
    "RopeCacheWrite": (*(("floats", (place,)) for place in range(1, 5)), ("floats", (10,))),
}

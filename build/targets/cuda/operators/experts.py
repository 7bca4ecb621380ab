"""Launches of a mixture of experts: choice, sorting, two products of each expert, and the sum of a row's experts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import expert_linear, expert_routing
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS
from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.operators import OPERATORS
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.operators.rows import given, rows_of
from inflight.build.targets.cuda.places import UNUSED, Places, aligned, triton_type, width_of
from inflight.engine_format.cuda_facts import Operand
from inflight.engine_format.manifest import Limits

_ROUTE, _SORT = expert_routing.SPECS
_PRODUCT, _MIX, _WEIGH = expert_linear.SPECS
_WORD_BYTES = 4
# Types of rows that have a scale each.
LEVELS = {ir.DataType.INT8: "int8", ir.DataType.FLOAT8E4M3FN: "float8"}


class Sizes(NamedTuple):
    """Of a mixture; `inner`: the type in which rows meet the second product."""

    experts: int
    top_k: int
    hidden: int
    size: int
    inner: ir.DataType

    @classmethod
    def of(cls, node: ir.Node) -> Sizes:
        """Of Experts and QuantizedExperts, whose stacks are one matrix."""
        inputs = inputs_of(node)
        x, proj = inputs["x"], inputs["proj"]
        assert x is not None and proj is not None, f"{node.name} has rows and weights"
        hidden, size = width_of(x), int(shape_of(proj)[-1])
        quantized = "rows" in node.attributes
        inner = onnx_dtype(node.attributes["rows"].as_string()) if quantized else dtype_of(x)
        count = node.attributes["experts"].as_int() if quantized else int(shape_of(proj)[0])
        return cls(count, node.attributes["top_k"].as_int(), hidden, size, inner)


def set_scratch(graph: ir.Graph) -> None:
    """Give the scratch memory of each mixture the size that its launches need, before memory is planned anew."""
    for node in graph:
        if node.op_type in ("Experts", "QuantizedExperts"):
            scratch = node.outputs[1]
            scratch.shape = ir.Shape((shape_of(scratch)[0], sum(_row_bytes(node).values())))


def mixture(node: ir.Node, places: Places, limits: Limits) -> list[PlannedLaunch]:
    """Experts: pairs of a row and an expert are sorted by the expert, each of which then meets its rows."""
    return list(_PlainMixture(node, places, limits).launches())


def inputs_of(node: ir.Node) -> Mapping[str, ir.Value | None]:
    """By their names."""
    return dict(zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False))


def weighs_inputs(node: ir.Node) -> bool:
    """Whether weights multiply the rows that experts meet, and not what they make of them."""
    return bool(node.attributes["routing"].as_string() == "sigmoid_inputs")


def _row_bytes(node: ir.Node) -> Mapping[str, int]:
    """Of a row, what each launch leaves for those behind it; rounded up so that each begins at a good place."""
    _, top_k, hidden, size, inner = Sizes.of(node)
    sizes = dict.fromkeys(("chosen", "weights", "order"), top_k * _WORD_BYTES)
    sizes |= {"inner": top_k * size * int(inner.itemsize), "outer": top_k * hidden * _WORD_BYTES}
    if inner in LEVELS:
        sizes |= {"unrounded": top_k * size * _WORD_BYTES, "scales": top_k * _WORD_BYTES}
    if node.op_type == "Experts" and weighs_inputs(node):
        sizes |= {"met": top_k * hidden * int(inner.itemsize)}
    return {name: aligned(nbytes) for name, nbytes in sizes.items()}


class Mixture(ABC):
    """One operator; `memory` is where in its scratch memory each part lies, for as many rows as a step can have."""

    def __init__(self, node: ir.Node, places: Places, limits: Limits) -> None:
        self.node, self.places, self.rows = node, places, rows_of(node)
        self.inputs, self.sizes = inputs_of(node), Sizes.of(node)
        most = limits.max_logit_rows if self.rows == "logit_rows" else limits.max_num_tokens
        base, self.memory, at = places.of(node.outputs[1]), dict[str, Operand](), 0
        for name, nbytes in _row_bytes(node).items():
            self.memory[name] = Operand(place=base.place, at=base.at + at)
            at += most * nbytes
        ends = aligned(self.sizes.experts * _WORD_BYTES)
        places.need(scratch=2 * ends)
        bounds = {"begins": Operand(place="scratch"), "ends": Operand(place="scratch", at=ends)}
        self.sorted = {**bounds, "order": self.memory["order"], "rows": Operand(place="size", name="rows")}

    def launches(self) -> Iterator[PlannedLaunch]:
        yield self._route()
        weight, sizes = self.following("fc")
        sorting = expert_routing.sorting_variant(
            self.sizes.experts, self.sizes.top_k, following=sizes, weight=self.weights
        )
        operands = {"chosen": self.memory["chosen"], "next_weight": weight, **self.sorted}
        yield PlannedLaunch.of(_SORT, sorting, operands, self.rows)
        yield from self.products()
        yield self._mix()

    @property
    @abstractmethod
    def weights(self) -> str:
        """The type of elements of stacks, as kernels have them."""

    def following(self, matrix: str) -> tuple[Operand, tuple[int, int]]:
        """A stack that is multiplied next: where it is, the lines of an expert in it, and the elements of a line."""
        stack = self.inputs[matrix]
        assert stack is not None, f"{self.node.name} has no {matrix}"
        lines = math.prod(int(each) for each in shape_of(stack)[:-1]) // self.sizes.experts
        return self.places.of(stack), (lines, self.row_size(stack))

    @abstractmethod
    def row_size(self, stack: ir.Value) -> int:
        """Elements of a line as they are stored."""

    @abstractmethod
    def products(self) -> Iterator[PlannedLaunch]:
        """From rows to what the experts of each make of them, in the memory `outer`."""

    def _route(self) -> PlannedLaunch:
        attributes = self.node.attributes
        variant = expert_routing.routing_variant(
            self.sizes.experts,
            self.sizes.top_k,
            attributes["routing"].as_string(),
            epsilon=attributes["epsilon"].as_float(),
            scale=attributes["scale"].as_float(),
            groups=attributes["groups"].as_int(),
            top_groups=attributes["top_groups"].as_int(),
        )
        operands = {name: self.places.of(self.inputs.get(name)) for name in ("logits", "choice_bias")}
        operands |= {name: self.memory[name] for name in ("chosen", "weights")}
        return PlannedLaunch.of(_ROUTE, variant, operands, self.rows)

    def _mix(self) -> PlannedLaunch:
        residual, weighs = self.inputs.get("residual"), not weighs_inputs(self.node)
        variant = expert_linear.mix_variant(
            self.sizes.hidden, self.sizes.top_k, adds=residual is not None, weighs=weighs
        )
        operands = {"x": self.memory["outer"], "weights": self.memory["weights"]}
        operands |= {"residual": self.places.of(residual), "y": self.places.of(self.node.outputs[0])}
        return PlannedLaunch.of(_MIX, variant, operands, self.rows)


class _PlainMixture(Mixture):
    """Rows and stacks have one type."""

    @property
    def weights(self) -> str:
        return triton_type(given(self.node, 0))

    def row_size(self, stack: ir.Value) -> int:
        return int(shape_of(stack)[-1])

    def products(self) -> Iterator[PlannedLaunch]:
        x, memory = given(self.node, 0), self.memory
        activation = self.node.attributes["activation"].as_string()
        rows = self.places.of(x)
        if "met" in memory:
            variant = expert_linear.weighing_variant(self.sizes.hidden, self.sizes.top_k, x=triton_type(x))
            operands = {"x": rows, "weights": memory["weights"], "y": memory["met"]}
            yield PlannedLaunch.of(_WEIGH, variant, operands, self.rows)
        yield self._product("fc", memory.get("met", rows), memory["inner"], activation)
        yield self._product("proj", memory["inner"], memory["outer"])

    def _product(self, matrix: str, x: Operand, y: Operand, activation: str | None = None) -> PlannedLaunch:
        """With fc, whose activation is given, to rows of the type of x; with proj to float32."""
        bias, act = self.inputs.get(f"{matrix}_bias"), triton_type(given(self.node, 0))
        count, top_k, hidden, size, _ = self.sizes
        n, k = (hidden, size) if activation is None else (size, hidden)
        after, sizes = (UNUSED, (0, 0)) if activation is None else self.following("proj")
        few, many = (
            expert_linear.expert_variant(
                n,
                k,
                count,
                top_k,
                few=few,
                activation=activation,
                by_pair=activation is None or "met" in self.memory,
                has_bias=bias is not None,
                following=sizes,
                x=act,
                bias=act if bias is None else triton_type(bias),
                y="fp32" if activation is None else act,
            )
            for few in (True, False)
        )
        weight = self.places.of(self.inputs[matrix])
        operands = {**self.sorted, "x": x, "weight": weight, "bias": self.places.of(bias), "y": y}
        operands["next_weight"] = after
        return PlannedLaunch(_PRODUCT, ((FEW_ROWS, few), (None, many)), operands, self.rows)

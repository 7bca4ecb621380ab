"""Launches of a mixture of experts: choice, sorting, two products of each expert, and the sum of a row's experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import expert_linear, expert_routing
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS
from inflight.build.graph.operators import OPERATORS
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.operators.rows import given, rows_of
from inflight.build.targets.cuda.places import Places, aligned, triton_type
from inflight.engine_format.cuda_facts import Operand
from inflight.engine_format.manifest import Limits

_ROUTE, _SORT = expert_routing.SPECS
_PRODUCT, _MIX, _WEIGH = expert_linear.SPECS
_WORD_BYTES = 4


def set_scratch(graph: ir.Graph) -> None:
    """Give the scratch memory of each mixture the size that its launches need, before memory is planned anew."""
    for node in graph:
        if node.op_type == "Experts":
            scratch = node.outputs[1]
            scratch.shape = ir.Shape((shape_of(scratch)[0], sum(_row_bytes(node).values())))


def mixture(node: ir.Node, places: Places, limits: Limits) -> list[PlannedLaunch]:
    """Experts: pairs of a row and an expert are sorted by the expert, each of which then meets its rows."""
    return list(_Mixture(node, places, limits).launches())


def _row_bytes(node: ir.Node) -> Mapping[str, int]:
    """Of a row, what each launch leaves for those behind it; rounded up so that each begins at a good place."""
    x, proj, top_k = given(node, 0), given(node, 2), node.attributes["top_k"].as_int()
    _, hidden, size = (int(dim) for dim in shape_of(proj))
    item = int(dtype_of(x).itemsize)
    sizes = dict.fromkeys(("chosen", "weights", "order"), top_k * _WORD_BYTES)
    sizes |= {"inner": top_k * size * item, "outer": top_k * hidden * _WORD_BYTES}
    sizes |= {"met": top_k * hidden * item} if _weighs_inputs(node) else {}
    return {name: aligned(nbytes) for name, nbytes in sizes.items()}


def _weighs_inputs(node: ir.Node) -> bool:
    """Whether weights multiply the rows that experts meet, and not what they make of them."""
    return bool(node.attributes["routing"].as_string() == "sigmoid_inputs")


class _Mixture:
    """One operator; `_memory` is where in its scratch memory each part lies, for as many rows as a step can have."""

    def __init__(self, node: ir.Node, places: Places, limits: Limits) -> None:
        self._node, self._places, self._rows = node, places, rows_of(node)
        self._inputs = dict(zip(OPERATORS["Experts"].inputs, node.inputs, strict=False))
        self._count, self._hidden, self._size = (int(dim) for dim in shape_of(given(node, 2)))
        self._top_k, self._act = node.attributes["top_k"].as_int(), triton_type(given(node, 0))
        most = limits.max_logit_rows if self._rows == "logit_rows" else limits.max_num_tokens
        base, self._memory, at = places.of(node.outputs[1]), dict[str, Operand](), 0
        for name, nbytes in _row_bytes(node).items():
            self._memory[name] = Operand(place=base.place, at=base.at + at)
            at += most * nbytes
        ends = aligned(self._count * _WORD_BYTES)
        places.need(scratch=2 * ends)
        bounds = {"begins": Operand(place="scratch"), "ends": Operand(place="scratch", at=ends)}
        self._sorted = {**bounds, "order": self._memory["order"], "rows": Operand(place="size", name="rows")}

    def launches(self) -> Iterator[PlannedLaunch]:
        memory, activation = self._memory, self._node.attributes["activation"].as_string()
        yield self._route()
        sorting = expert_routing.sorting_variant(self._count, self._top_k)
        yield PlannedLaunch.of(_SORT, sorting, {"chosen": memory["chosen"], **self._sorted}, self._rows)
        x = self._places.of(given(self._node, 0))
        if "met" in memory:
            variant = expert_linear.weighing_variant(self._hidden, self._top_k, x=self._act)
            operands = {"x": x, "weights": memory["weights"], "y": memory["met"]}
            yield PlannedLaunch.of(_WEIGH, variant, operands, self._rows)
        yield self._product("fc", memory.get("met", x), memory["inner"], activation)
        yield self._product("proj", memory["inner"], memory["outer"])
        yield self._mix()

    def _route(self) -> PlannedLaunch:
        attributes = self._node.attributes
        variant = expert_routing.routing_variant(
            self._count,
            self._top_k,
            attributes["routing"].as_string(),
            epsilon=attributes["epsilon"].as_float(),
            scale=attributes["scale"].as_float(),
            groups=attributes["groups"].as_int(),
            top_groups=attributes["top_groups"].as_int(),
        )
        operands = {name: self._places.of(self._inputs.get(name)) for name in ("logits", "choice_bias")}
        operands |= {name: self._memory[name] for name in ("chosen", "weights")}
        return PlannedLaunch.of(_ROUTE, variant, operands, self._rows)

    def _product(self, matrix: str, x: Operand, y: Operand, activation: str | None = None) -> PlannedLaunch:
        """With fc, whose activation is given, to rows of the type of x; with proj to float32."""
        bias = self._inputs.get(f"{matrix}_bias")
        n, k = (self._hidden, self._size) if activation is None else (self._size, self._hidden)
        few, many = (
            expert_linear.expert_variant(
                n,
                k,
                self._count,
                self._top_k,
                few=few,
                activation=activation,
                by_pair=activation is None or "met" in self._memory,
                has_bias=bias is not None,
                x=self._act,
                bias=self._act if bias is None else triton_type(bias),
                y="fp32" if activation is None else self._act,
            )
            for few in (True, False)
        )
        weight = self._places.of(self._inputs[matrix])
        operands = {**self._sorted, "x": x, "weight": weight, "bias": self._places.of(bias), "y": y}
        return PlannedLaunch(_PRODUCT, ((FEW_ROWS, few), (None, many)), operands, self._rows)

    def _mix(self) -> PlannedLaunch:
        residual, weighs = self._inputs.get("residual"), "met" not in self._memory
        variant = expert_linear.mix_variant(self._hidden, self._top_k, adds=residual is not None, weighs=weighs)
        operands = {"x": self._memory["outer"], "weights": self._memory["weights"]}
        operands |= {"residual": self._places.of(residual), "y": self._places.of(self._node.outputs[0])}
        return PlannedLaunch.of(_MIX, variant, operands, self._rows)

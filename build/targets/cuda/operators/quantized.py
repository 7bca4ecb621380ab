"""Launches of products with quantized weights, and of the rounding of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import quantize_rows as rounding_kernel
from inflight.build.gpu_kernels.kernels import quantized_linear as kernel
from inflight.build.gpu_kernels.kernels import quantized_tiles as tiles
from inflight.build.gpu_kernels.kernels import rms_norm
from inflight.build.gpu_kernels.kernels.quantize_rows import quantize_variant, tiles_variant
from inflight.build.gpu_kernels.kernels.split_sums import row_tiles
from inflight.build.graph.dtypes import facts_of
from inflight.build.graph.operators import OPERATORS
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.passes.plan_memory import EARLY
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.operators.products import product
from inflight.build.targets.cuda.operators.rows import given, rows_of
from inflight.build.targets.cuda.places import TRITON_TYPES, UNUSED, Places, triton_type, width_of
from inflight.engine_format.cuda_facts import Operand
from inflight.errors import BuildError

_QUANTIZE, _TILES = rounding_kernel.SPECS
(_PRODUCT,) = kernel.SPECS
(_NORM,) = rms_norm.SPECS
# The most that a program of attention rounds: a row lies in its registers.
_WIDEST = 8192
_LEVELS = {"int8": "int8", "float8_e4m3fn": "float8"}


def mark_early(graph: ir.Graph) -> None:
    """Where nothing but a QuantizeRows reads what attention makes, attention itself writes the levels of generated
    tokens, and memory is planned for that."""
    for node in graph:
        if node.op_type != "PagedAttention":
            continue
        users = node.outputs[0].consumers()
        if len(users) != 1 or users[0].op_type != "QuantizeRows" or width_of(node.outputs[0]) > _WIDEST:
            continue
        if facts_of(dtype_of(users[0].outputs[0])).name in _LEVELS:
            for value in users[0].outputs:
                value.metadata_props[EARLY] = "levels"


def quantize_rows(node: ir.Node, places: Places) -> PlannedLaunch:
    """QuantizeRows; those that attention has made of generated tokens are left out."""
    planned = rounding_of(node, given(node, 0), places)
    if EARLY not in node.outputs[0].metadata_props:
        return planned
    (_, variant), *_others = planned.choices
    tiles = {name: Operand(place="step", name=name) for name in ("tile_begins", "tile_ends")}
    return PlannedLaunch.of(_TILES, tiles_variant(variant), {**planned.operands, **tiles}, "prompt_tiles")


def rounding_of(node: ir.Node, x: ir.Value, places: Places) -> PlannedLaunch:
    """The launch of a QuantizeRows of all rows of x."""
    named, rounding = _named(node), _Rounding.of(node)
    factors, order = named.get("factors"), named.get("order")
    variant = quantize_variant(
        width_of(node.outputs[0]),
        rounding.y,
        orders=order is not None,
        factors=None if factors is None else triton_type(factors),
        has_stored=rounding.stored is not None,
        cuts=rounding.cuts,
        x=triton_type(x),
    )
    operands = {"x": places.of(x), "order": places.of(order), "factors": places.of(factors)}
    return PlannedLaunch.of(_QUANTIZE, variant, operands | rounding.operands(places), rows_of(node))


def normalize(node: ir.Node, places: Places) -> PlannedLaunch:
    """RMSNormQuantize: the norm in float32, whose program rounds the row."""
    x, weight = given(node, 0), given(node, 1)
    rounding = _Rounding.of(node)
    variant = rms_norm.norm_variant(
        width_of(x),
        epsilon=node.attributes["epsilon"].as_float(),
        adds=False,
        x=triton_type(x),
        weight=triton_type(weight),
        y=rounding.y,
        has_stored=rounding.stored is not None,
        cuts=rounding.cuts,
    )
    operands = {"x": places.of(x), "weight": places.of(weight), "delta": UNUSED, "total": UNUSED}
    return PlannedLaunch.of(_NORM, variant, operands | rounding.operands(places), rows_of(node))


@dataclass(frozen=True)
class _Rounding:
    """What a row is rounded to, and the values that decide how."""

    node: ir.Node
    stored: ir.Value | None
    low: ir.Value | None
    high: ir.Value | None

    @classmethod
    def of(cls, node: ir.Node) -> _Rounding:
        named = _named(node)
        return cls(node, *(named.get(name) for name in ("scale", "low", "high")))

    @property
    def y(self) -> str:
        """As variants of kernels name it."""
        levels = self.node.outputs[0]
        return _LEVELS.get(facts_of(dtype_of(levels)).name) or triton_type(levels)

    @property
    def cuts(self) -> bool:
        """A stored scale cuts by itself."""
        return self.low is not None and self.high is not None and self.stored is None

    def operands(self, places: Places) -> dict[str, Operand]:
        levels, scales = (places.of(value) for value in self.node.outputs)
        values = {"stored": self.stored, "low": self.low, "high": self.high}
        return {**{name: places.of(value) for name, value in values.items()}, "y": levels, "y_scale": scales}


def _named(node: ir.Node) -> dict[str, ir.Value | None]:
    """The inputs that are given, by their names."""
    return dict(zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False))


@dataclass(frozen=True)
class QuantizedMatrix:
    """The values of a quantized matrix, or of those of all experts, and of what is added to its product."""

    weight: ir.Value
    scale: ir.Value
    bias: ir.Value | None
    zero: ir.Value | None
    codebook: ir.Value | None
    unit: ir.Value | None

    @classmethod
    def of(cls, node: ir.Node, *names: str) -> QuantizedMatrix:
        """By the names of its inputs: weight, scale, bias, zero, codebook, unit."""
        named = _named(node)
        weight, scale, *others = (named.get(name) for name in names)
        assert weight is not None and scale is not None, f"{node.name} has no weights"
        return cls(weight, scale, *others)

    @property
    def weights(self) -> str:
        """As kernels name the type of weights."""
        name = facts_of(dtype_of(self.weight)).name
        assert name not in TRITON_TYPES, f"{self.weight.name} is not quantized"
        return "float8" if name == "float8_e4m3fn" else name

    @property
    def kinds(self) -> dict[str, Any]:
        """What a variant of a kernel is told of it, beside the size of its groups."""
        scales = shape_of(self.scale)
        alone = scales[0] == 1 != shape_of(self.weight)[0]
        return {
            "shares": tiles.GROUP if len(scales) > 1 else tiles.MATRIX if alone else tiles.OUTPUT,
            "has_unit": self.unit is not None,
            "zero": None if self.zero is None else triton_type(self.zero),
            "bias": None if self.bias is None else triton_type(self.bias),
            "weight_scale": "i8" if facts_of(dtype_of(self.scale)).name == "int8" else triton_type(self.scale),
        }

    def check_rows(self, rounded: str) -> None:
        """Raises BuildError where rows of integers would meet codes: products of integers read codes as levels."""
        if self.codebook is not None and rounded == "int8":
            raise BuildError(f"The cuda target has no product of int8 rows with {self.weight.name}, which holds codes.")

    def operands(self, places: Places) -> dict[str, Operand]:
        named = {"weight": self.weight, "weight_scale": self.scale, "unit": self.unit, "zero": self.zero}
        named |= {"codebook": self.codebook, "bias": self.bias}
        return {name: places.of(value) for name, value in named.items()}


def linear(node: ir.Node, places: Places, generations: Sequence[int]) -> PlannedLaunch:
    """QuantizedLinear."""
    matrix = QuantizedMatrix.of(node, "weight", "weight_scale", "bias", "zero", "codebook", "unit")
    residual = _named(node).get("residual")
    ends = kernel.STORES if residual is None else kernel.ADDS
    return _planned(node, matrix, places.of(residual), ends, places, generations)


def gated_linear(node: ir.Node, places: Places, generations: Sequence[int]) -> list[PlannedLaunch]:
    """QuantizedGatedLinear: up to the result's memory, then what the activated gate makes of it."""
    up = QuantizedMatrix.of(node, "up", "up_scale", "up_bias", "up_zero", "codebook", "up_unit")
    gate = QuantizedMatrix.of(node, "gate", "gate_scale", "gate_bias", "gate_zero", "codebook", "gate_unit")
    y = places.of(node.outputs[0])
    return [
        _planned(node, up, UNUSED, kernel.STORES, places, generations),
        _planned(node, gate, y, kernel.GATES, places, generations),
    ]


def _planned(
    node: ir.Node, matrix: QuantizedMatrix, residual: Operand, ends: int, places: Places, generations: Sequence[int]
) -> PlannedLaunch:
    x, x_scale = given(node, 0), given(node, 1)
    n, k = (int(dim) for dim in shape_of(matrix.weight))
    rounded = _LEVELS.get(facts_of(dtype_of(x)).name, "plain")
    matrix.check_rows(rounded)
    variants = {
        most: kernel.quantized_variant(
            n,
            k,
            matrix.weights,
            rounded,
            tile=tile,
            group_size=node.attributes["group_size"].as_int(),
            ends=ends,
            activation=node.attributes["activation"].as_string() if "activation" in node.attributes else "silu",
            x="i8" if rounded != "plain" else triton_type(x),
            native_float8=places.native_float8,
            **matrix.kinds,
        )
        for most, tile in row_tiles("i8" if rounded != "plain" else triton_type(x))
    }
    operands = {"x": places.of(x), "x_scale": places.of(x_scale), **matrix.operands(places)}
    operands |= {"residual": residual, "y": places.of(node.outputs[0])}
    return product(_PRODUCT, variants, operands, node, places, generations)

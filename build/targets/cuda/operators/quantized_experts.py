"""Launches of the products of experts with quantized weights, and of the rounding between them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import quantize_rows, quantized_expert_linear
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS
from inflight.build.graph.dtypes import facts_of
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.operators.experts import LEVELS, Mixture, weighs_inputs
from inflight.build.targets.cuda.operators.quantized import QuantizedMatrix
from inflight.build.targets.cuda.operators.rows import given
from inflight.build.targets.cuda.places import TRITON_TYPES, UNUSED, Places
from inflight.engine_format.cuda_facts import Operand
from inflight.engine_format.manifest import Limits

(_PRODUCT,) = quantized_expert_linear.SPECS
_ROUNDING, _ = quantize_rows.SPECS
_PARTS = ("scale", "bias", "zero", "codebook", "unit")


def mixture(node: ir.Node, places: Places, limits: Limits) -> list[PlannedLaunch]:
    """QuantizedExperts."""
    return list(_QuantizedMixture(node, places, limits).launches())


class _QuantizedMixture(Mixture):
    """Rows are rounded once for all experts, and again, those of each pair, between the products."""

    @property
    def weights(self) -> str:
        return "i8"

    def row_size(self, stack: ir.Value) -> int:
        """Two levels of 4 bits share a byte."""
        return math.ceil(int(shape_of(stack)[-1]) * float(dtype_of(stack).itemsize))

    def products(self) -> Iterator[PlannedLaunch]:
        x, memory, inner = given(self.node, 0), self.memory, self.sizes.inner
        activation = self.node.attributes["activation"].as_string()
        met = self.places.of(x), self.places.of(given(self.node, 1))
        unrounded = memory.get("unrounded", memory["inner"])
        yield self._product("fc", dtype_of(x), *met, unrounded, activation)
        if inner in LEVELS:
            yield self._rounding(unrounded)
        yield self._product("proj", inner, memory["inner"], memory.get("scales", UNUSED), memory["outer"])

    def _product(
        self,
        matrix: str,
        held: ir.DataType,
        x: Operand,
        x_scale: Operand,
        y: Operand,
        activation: str | None = None,
    ) -> PlannedLaunch:
        """Of rows that are held in this type. With fc, whose activation is given, to rows of the type that proj reads,
        or to float32 in front of their rounding; with proj to float32."""
        stored = QuantizedMatrix.of(self.node, matrix, *(f"{matrix}_{part}" for part in _PARTS))
        rounded = LEVELS.get(held, "plain")
        stored.check_rows(rounded)
        count, top_k, hidden, size, inner = self.sizes
        is_fc = activation is not None
        n, k = (size, hidden) if is_fc else (hidden, size)
        weighs = is_fc and weighs_inputs(self.node)
        after, sizes = self.following("proj") if is_fc else (UNUSED, (0, 0))
        few, many = (
            quantized_expert_linear.quantized_expert_variant(
                n,
                k,
                count,
                top_k,
                few=few,
                activation=activation,
                by_pair=not is_fc,
                weighs_inputs=weighs,
                following=sizes,
                group_size=self.node.attributes["group_size" if is_fc else "inner_group_size"].as_int(),
                x=TRITON_TYPES.get(facts_of(held).name, "i8"),
                y="fp32" if not is_fc or inner in LEVELS else TRITON_TYPES[facts_of(inner).name],
                weights=stored.weights,
                rounded=rounded,
                native_float8=self.places.native_float8,
                **stored.kinds,
            )
            for few in (True, False)
        )
        operands = {**self.sorted, **stored.operands(self.places), "x": x, "x_scale": x_scale, "y": y}
        operands["next_weight"], operands["pair_weights"] = after, self.memory["weights"]
        return PlannedLaunch(_PRODUCT, ((FEW_ROWS, few), (None, many)), operands, self.rows)

    def _rounding(self, x: Operand) -> PlannedLaunch:
        sizes = self.sizes
        variant = quantize_rows.quantize_variant(sizes.size, LEVELS[sizes.inner], times=sizes.top_k)
        operands = {"x": x, "y": self.memory["inner"], "y_scale": self.memory["scales"]}
        operands |= dict.fromkeys(("order", "factors", "stored", "low", "high"), UNUSED)
        return PlannedLaunch.of(_ROUNDING, variant, operands, self.rows)

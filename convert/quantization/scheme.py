"""In which tensors a quantized matrix is stored, and how the rows that it multiplies are rounded.

docs/formats/checkpoint.md has the formats; the names of the algorithms are those of the TensorRT-LLM checkpoint format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.schemes import (
    ACTIVATION_SCALE,
    BOUND,
    INPUT_FACTORS,
    INPUT_ORDER,
    SCHEMES,
    ZERO_POINT,
    Codebook,
    QuantScheme,
    RowDtype,
    schemes_of,
)
from inflight.dtypes import DTYPES

WEIGHT_LAYOUT: Literal["out_in"] = "out_in"
LAID_OUT_FOR_A_GPU = f"weights laid out for a GPU (weight_layout is not {WEIGHT_LAYOUT!r})"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a rank file holds it; `dtype` is a numpy name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class WeightQuantization:
    """How the matrix of one module is stored, and how the rows that it multiplies are rounded.

    `group_size` 0: the scheme has no groups. `row_limits`: rows are cut to this range before they are rounded.
    `scaled_inputs`: before that, each of their values is multiplied by a stored factor. `zero_points`: to a level times
    its scale the zero point of its group is added. `ordered_inputs`: rows get a stored order before they meet it.
    """

    scheme: QuantScheme
    group_size: int
    row_limits: tuple[float, float] | None = None
    scaled_inputs: bool = False
    zero_points: bool = False
    ordered_inputs: bool = False

    @property
    def told_by_scales(self) -> bool:
        """True where the name of the scales alone tells that the weights are not laid out for a GPU."""
        others = schemes_of(self.scheme.algorithm)
        return not self.scheme.weights.guarded and any(each.weights.guarded for each in others)

    @property
    def activations(self) -> RowDtype:
        return self.scheme.rows.dtype

    @property
    def bits(self) -> int:
        """Of a weight."""
        return DTYPES[self.scheme.weights.dtype].bits

    @property
    def codebook(self) -> Codebook | None:
        """The table that levels are codes of."""
        return self.scheme.weights.codebook

    def scale_name(self, module: str) -> str:
        return f"{module}{self.scheme.weights.suffix}"

    def row_scale_name(self, module: str) -> str | None:
        """The tensor of the one scale of the rows; None: each row has its own."""
        return f"{module}{ACTIVATION_SCALE}" if self.scheme.rows.scale == "stored" else None

    def factors_name(self, module: str) -> str | None:
        """The tensor of the factors of the rows' values; None: there are none."""
        return f"{module}{INPUT_FACTORS}" if self.scaled_inputs else None

    def order_name(self, module: str) -> str | None:
        """The tensor of the order of the rows' values; None: they have that of the module's inputs."""
        return f"{module}{INPUT_ORDER}" if self.ordered_inputs else None

    def zero_name(self, module: str) -> str | None:
        """The tensor of the zero points; None: there are none."""
        return f"{module}{ZERO_POINT}" if self.zero_points else None

    def bound_name(self, module: str) -> str | None:
        """The tensor of the bound of the weights; None: none is written."""
        return f"{module}{BOUND}" if self.scheme.weights.bound else None

    def written(self, module: str, shape: Sequence[int], dtype: str) -> tuple[StoredTensor, ...]:
        """What `convert` writes: what is read, and the bound of the weights for other readers."""
        bound = self.bound_name(module)
        return (*self.stored(module, shape, dtype), *([StoredTensor(bound, (1,), "float32")] if bound else []))

    def stored(self, module: str, shape: Sequence[int], dtype: str) -> tuple[StoredTensor, ...]:
        """Weight, scales, factors and zero points of a matrix of this shape, or of a stack of such matrices, in a
        checkpoint of type `dtype`: bytes of int4 hold two neighbouring rows, the even one low.
        """
        weights, (*stack, rows, columns) = self.scheme.weights, shape
        levels, height = ("int8", -(-rows // 2)) if self.bits == 4 else (weights.dtype, rows)
        packed = (*stack, height, columns)
        groups = -(-columns // (self.group_size or columns))
        shares = {"matrix": (1,), "row": (*stack, rows), "group": (*stack, rows, groups)}
        row_scale, factors, zero = self.row_scale_name(module), self.factors_name(module), self.zero_name(module)
        order = self.order_name(module)
        return (
            StoredTensor(f"{module}.weight", packed, levels),
            StoredTensor(self.scale_name(module), shares[weights.scale], "float32"),
            *([StoredTensor(row_scale, (1,), "float32")] if row_scale else []),
            *([StoredTensor(factors, (columns,), dtype)] if factors else []),
            *([StoredTensor(order, (columns,), "int32")] if order else []),
            *([StoredTensor(zero, shares[weights.scale], "float32")] if zero else []),
        )


def weight_quantization(facts: QuantizationFacts, record: QuantizationRecord | None) -> WeightQuantization | None:
    """How a module with these facts is stored (see `algorithm_problems`); None: plain. `record` tells schemes of one
    algorithm apart.
    """
    if facts.quant_algo is None:
        return None
    known = schemes_of(facts.quant_algo)
    guarded = facts.weight_layout is not None
    known = [scheme for scheme in known if scheme.weights.guarded == guarded] or known
    told = [scheme for scheme in known if record is not None and scheme.rows.dtype == record.activations]
    told.sort(key=lambda scheme: record is not None and scheme.name != record.scheme)
    scheme = (told or known)[0]
    group_size = facts.group_size if scheme.weights.scale == "group" else 0
    limits = facts.clamp_val if scheme.rows == ("float8_e4m3fn", "own") else None
    scaled_inputs = facts.pre_quant_scale or scheme.scaled_inputs
    return WeightQuantization(scheme, group_size, limits, scaled_inputs, facts.has_zero_point, facts.desc_act)


def algorithm_problems(facts: QuantizationFacts, further: tuple[str, ...] = ()) -> list[str]:
    """Everything unsupported in what is said of one module, a phrase each; empty when it is supported. `further` are
    algorithms to name beside those of modules.
    """
    algorithm = facts.quant_algo
    if algorithm is None:
        return []
    schemes = schemes_of(algorithm)
    supported = ", ".join(dict.fromkeys([*(scheme.algorithm for scheme in SCHEMES), *further]))
    # Zero points lie in another order in the format's own reader.
    guarded = (
        facts.has_zero_point or facts.desc_act or (bool(schemes) and all(scheme.weights.guarded for scheme in schemes))
    )
    grouped = all(scheme.weights.scale == "group" for scheme in schemes)
    coded = any(scheme.weights.codebook is not None for scheme in schemes)
    floats = any(scheme.weights.dtype == scheme.rows.dtype == "float8_e4m3fn" for scheme in schemes)
    limits = facts.clamp_val
    named = f"quant_algo {algorithm!r} with"
    checks = (
        (not schemes, f"quant_algo {algorithm!r} (supported: {supported})"),
        (
            guarded and facts.weight_layout != WEIGHT_LAYOUT,
            f"{named} {LAID_OUT_FOR_A_GPU}",
        ),
        (facts.pre_quant_scale and facts.desc_act, f"{named} pre_quant_scale and desc_act"),
        (facts.pre_quant_scale and floats, f"{named} pre_quant_scale (factors of its inputs)"),
        (facts.has_zero_point and not grouped, f"{named} has_zero_point (groups have them)"),
        (facts.has_zero_point and coded, f"{named} has_zero_point (codes have none)"),
        (facts.use_meta_recipe, f"{named} use_meta_recipe (layers that are left out without being named)"),
        (limits is not None and not limits[0] < 0 < limits[1], f"{named} clamp_val {limits}"),
        (facts.group_size < 1, f"group_size {facts.group_size}"),
    )
    return [text for wrong, text in checks if wrong]

"""Calibration layer by layer: what each product is given is observed, its matrix is rounded, and the next layer sees
what the rounded one makes of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from inflight.convert.calibration.awq import awq_factors, awq_levels
from inflight.convert.calibration.experts import calibrate_stack
from inflight.convert.calibration.gptq import float8_scales, gptq_float8, gptq_levels
from inflight.convert.calibration.rows import smoothing_factors, stored_row_scale
from inflight.convert.calibration.statistics import (
    SAME_ROWS,
    Floats,
    InputStatistics,
    LayerWeights,
    ObservedWeights,
)
from inflight.convert.calibration.text import Tokens
from inflight.convert.checkpoint.model_spec import ExpertsSpec, LayerSpec, ModelSpec
from inflight.convert.checkpoint.reference.decoder import DecoderWeights, TensorReader, decoder_layer
from inflight.convert.quantization.round_to_nearest import FLOAT8_GREATEST, dequantize
from inflight.convert.quantization.rows import RowRounding
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.tensor import ChosenLevels, Measured
from inflight.dtypes import numpy_dtype

LAYERS = "transformer.layers."
LAYER = LAYERS + "{}."
STACKS = ("mlp.fc", "mlp.proj")  # of a layer with experts
Advance = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was found for a matrix, or a stack of them: of its rows, if its scheme asks for that, and the levels that
    were chosen, if they were; `lost` is the share of a matrix' outputs' square that their rounding costs on the text,
    and `nearest` how many of so many experts were rounded to nearest.
    """

    measured: Measured | None = None
    chosen: ChosenLevels | None = None
    lost: float | None = None
    nearest: tuple[int, int] | None = None


class CalibratedLayer(NamedTuple):
    """What was found for the matrices of a layer, by module path; the greatest magnitudes of its keys and values."""

    matrices: Mapping[str, Calibrated]
    greatest_cached: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Which modules are calibrated (by path), the groups of each scheme (by name), alpha, and the checkpoint's type."""

    schemes: Mapping[str, QuantScheme]
    group_sizes: Mapping[str, int]
    smoothing: float
    dtype: str

    def of_layer(self, index: int) -> dict[str, QuantScheme]:
        """The schemes of a layer by the short names of its modules."""
        prefix = LAYER.format(index)
        return {path.removeprefix(prefix): each for path, each in self.schemes.items() if path.startswith(prefix)}


def embedded(tensors: TensorReader, spec: ModelSpec, sequences: Sequence[Tokens]) -> list[Floats]:
    """The residual stream [tokens, hidden] of each sequence before the first layer."""
    table = tensors.array("transformer.vocab_embedding.weight")
    scale = np.float32(spec.embedding_scale)
    streams = [table[ids].astype(np.float32) * scale for ids in sequences]
    if spec.positions is not None:
        positions = tensors.array("transformer.position_embedding.weight").astype(np.float32)
        streams = [stream + positions[: len(stream)] for stream in streams]
    if spec.embedding_norm is not None:
        weights = DecoderWeights(tensors, "transformer.", np.float32)
        streams = [weights.norm(stream, spec.embedding_norm) for stream in streams]
    return streams


def calibrate_layer(
    tensors: TensorReader,
    index: int,
    layer: LayerSpec,
    calibration: Calibration,
    streams: list[Floats],
    advance: Advance,
) -> CalibratedLayer:
    """What the method of each calibrated matrix of a layer makes of these streams.

    `streams`, the residual streams before the layer, are replaced by those behind it. `advance` is called with shares
    of the layer's work.
    """
    prefix, chosen = LAYER.format(index), calibration.of_layer(index)
    rounds = any(scheme.method in ("gptq", "smoothed_gptq", "awq") for scheme in chosen.values())
    passes = 2 if rounds else 1
    experts = layer.mlp.count if isinstance(layer.mlp, ExpertsSpec) else 0
    stacks = [module for module in chosen if module in STACKS] if experts else []
    observed = ObservedWeights(tensors, prefix, rounds, stacks)
    behind = [_advanced(observed, layer, stream, advance, 0.8 / passes / len(streams)) for stream in streams]
    matrices = _Matrices(observed, chosen, calibration)
    found: dict[str, Calibrated] = {}
    for module in chosen:
        found[f"{prefix}{module}"] = (
            matrices.of_experts(module, experts) if module in stacks else matrices.calibrated(module)
        )
        advance(0.2 / len(chosen), "")
    if rounds:
        rounded_layer = LayerWeights(
            tensors, prefix, matrices.rounded, matrices.roundings, matrices.factors, matrices.stacks
        )
        behind = [_advanced(rounded_layer, layer, stream, advance, 0.4 / len(streams)) for stream in streams]
    streams[:] = behind
    return CalibratedLayer(found, observed.greatest_cached)


class _Matrices:
    """Chooses for the matrices of a layer, whose inputs were observed. `rounded` are those that have levels, `stacks`
    those of experts, `factors` what their rows are multiplied by, and `roundings` what then becomes of these; those of
    16 bits are taken as they are.
    """

    def __init__(self, observed: ObservedWeights, schemes: Mapping[str, QuantScheme], calibration: Calibration) -> None:
        self._observed, self._schemes, self._calibration = observed, schemes, calibration
        self.rounded: dict[str, Floats] = {}
        self.roundings: dict[str, RowRounding] = {}
        self.factors: dict[str, Floats] = {}
        self.stacks: dict[str, list[Floats]] = {}
        self._shared_factors: dict[str, Floats] = {}

    def calibrated(self, module: str) -> Calibrated:
        scheme, inputs = self._schemes[module], self._observed.statistics[SAME_ROWS.get(module, module)]
        factors = self._factors(module, scheme, inputs)
        scale = self._row_scale(module, inputs, factors) if scheme.rows.scale == "stored" else None
        bound = self._bound(module, factors, scheme) if scheme.weights.bound else None
        measured = None if factors is None and scale is None else Measured(scale, factors, bound)
        if scheme.method == "smoothquant":
            return Calibrated(measured)
        weight, hessian = self._observed.matrix(module), inputs.hessian
        chosen, size = self._levels(module, scheme, hessian, factors)
        rounded = dequantize(chosen.levels, chosen.scales, size)
        self.rounded[module] = rounded
        if factors is not None:
            self.factors[module], rounded = factors, rounded * factors
        if scheme.rows.dtype != "int16":
            self.roundings[module] = RowRounding(scheme.rows.dtype, scale)
        lost = _power(rounded - weight, hessian) / max(_power(weight, hessian), 1e-30)
        return Calibrated(measured, chosen, lost)

    def of_experts(self, module: str, count: int) -> Calibrated:
        """The same of the matrices of so many experts."""
        scheme, observed = self._schemes[module], self._observed
        met = {expert: inputs for (name, expert), inputs in observed.of_experts.items() if name == module}
        size = self._calibration.group_sizes[scheme.name]
        chosen, self.stacks[module], nearest = calibrate_stack(observed.stack(module), count, met, size, scheme)
        if scheme.rows.dtype != "int16":
            self.roundings[module] = RowRounding(scheme.rows.dtype)
        return Calibrated(chosen=chosen, nearest=(nearest, count))

    def _row_scale(self, module: str, inputs: InputStatistics, factors: Floats | None) -> float:
        """Matrices that read the same rows share it."""
        by = np.float32(1) if factors is None else factors
        power = np.sum([np.square(matrix / by).sum(axis=0) for matrix in self._sharing(module)], axis=0)
        return float(np.float32(stored_row_scale(inputs.sample * by, float((inputs.greatest * by).max()), power)))

    def _bound(self, module: str, factors: Floats | None, scheme: QuantScheme) -> float:
        by = np.float32(1) if factors is None else factors
        greatest = max(float(np.abs(matrix / by).max()) for matrix in self._sharing(module))
        # The greatest of a group is at least so many levels, and there are 8.
        return (greatest or 1.0) * 8 / min(scheme.divisors) / FLOAT8_GREATEST

    def _factors(self, module: str, scheme: QuantScheme, inputs: InputStatistics) -> Floats | None:
        """What the inputs are multiplied by; matrices that read the same rows share it."""
        if scheme.method in ("smoothquant", "smoothed_gptq"):
            columns = np.max([np.abs(matrix).max(axis=0) for matrix in self._sharing(module)], axis=0)
            factors = smoothing_factors(inputs.greatest, columns, self._calibration.smoothing)
            # As the checkpoint stores them.
            stored: Floats = factors.astype(numpy_dtype(self._calibration.dtype)).astype(np.float32)
            return stored
        if scheme.method != "awq":
            return None
        source = SAME_ROWS.get(module, module)
        if source not in self._shared_factors:
            weights, size = self._sharing(module), self._calibration.group_sizes[scheme.name]
            self._shared_factors[source] = awq_factors(
                np.concatenate(weights), inputs.hessian, inputs.magnitudes, size, self._calibration.dtype
            )
        return self._shared_factors[source]

    def _levels(
        self, module: str, scheme: QuantScheme, hessian: Floats, factors: Floats | None
    ) -> tuple[ChosenLevels, int]:
        """The levels, and the size of their groups."""
        weight, size = self._observed.matrix(module), self._calibration.group_sizes[scheme.name]
        if factors is not None:
            scaled, choose = hessian * np.outer(factors, factors), awq_levels if scheme.method == "awq" else gptq_levels
            return ChosenLevels(*choose(weight / factors, scaled, size, scheme.divisors), "int4"), size
        if scheme.weights.dtype == "int4":
            return ChosenLevels(*gptq_levels(weight, hessian, size, scheme.divisors), "int4"), size
        # One kernel reads a gate and its partner: under one scale for a matrix they share it.
        shared = scheme.weights.scale == "matrix"
        weights = np.concatenate(self._sharing(module)) if shared else weight
        scales = float8_scales(weights, hessian.diagonal(), scheme.divisors, shared)
        return ChosenLevels(gptq_float8(weight, hessian, scales), scales, "float8_e4m3fn"), 0

    def _sharing(self, module: str) -> list[Floats]:
        """The matrix and those that read the same rows."""
        source = SAME_ROWS.get(module, module)
        names = [source, *(name for name, other in SAME_ROWS.items() if other == source)]
        return [self._observed.matrix(name) for name in names if self._observed.has(name)]


def _power(weight: Floats, hessian: Floats) -> float:
    """The mean square of all outputs together."""
    return float(np.vdot(weight @ hessian, weight))


def _advanced(weights: LayerWeights, layer: LayerSpec, stream: Floats, advance: Advance, share: float) -> Floats:
    result: Floats = decoder_layer(weights, layer, stream)
    advance(share, "")
    return result

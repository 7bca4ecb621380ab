"""Calibration layer by layer: what each product is given is observed, its matrix is rounded, and the next layer sees
what the rounded one makes of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inflight.convert.calibration.gptq import gptq_levels
from inflight.convert.calibration.smoothquant import smoothing_factors
from inflight.convert.calibration.statistics import Floats, InputStatistics, ObservedWeights
from inflight.convert.calibration.text import Tokens
from inflight.convert.checkpoint.model_spec import LayerSpec, ModelSpec
from inflight.convert.checkpoint.reference_decoder import TensorReader, decoder_layer
from inflight.convert.quantization.round_to_nearest import Levels, dequantize
from inflight.convert.quantization.schemes import QuantScheme
from inflight.convert.source.tensor import Measured

LAYERS = "transformer.layers."
LAYER = LAYERS + "{}."
# Products that read the same rows, and share what is made of them.
_SAME_ROWS = {"mlp.gate": "mlp.fc"}
Advance = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class RoundedMatrix:
    """Levels int8 [N, K] and scales float32 [N, groups] of a matrix; `lost` is the share of its outputs' square that
    their rounding costs on the text.
    """

    levels: Levels
    scales: Floats
    lost: float


Calibrated = Mapping[str, RoundedMatrix | Measured]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Which modules are calibrated (by path), and the numbers of the methods."""

    schemes: Mapping[str, QuantScheme]
    group_size: int
    smoothing: float

    def of_layer(self, index: int) -> dict[str, QuantScheme]:
        """The schemes of a layer by the short names of its modules."""
        prefix = LAYER.format(index)
        return {path.removeprefix(prefix): each for path, each in self.schemes.items() if path.startswith(prefix)}


def embedded(tensors: TensorReader, spec: ModelSpec, sequences: Sequence[Tokens]) -> list[Floats]:
    """The residual stream [tokens, hidden] of each sequence before the first layer."""
    table = tensors.array("transformer.vocab_embedding.weight")
    scale = np.float32(spec.embedding_scale)
    return [table[ids].astype(np.float32) * scale for ids in sequences]


def calibrate_layer(
    tensors: TensorReader,
    index: int,
    layer: LayerSpec,
    calibration: Calibration,
    streams: list[Floats],
    advance: Advance,
) -> Calibrated:
    """What the method of each calibrated matrix of a layer makes of these streams, by module path.

    `streams`, the residual streams before the layer, are replaced by those behind it. `advance` is called with shares
    of the layer's work.
    """
    prefix, chosen = LAYER.format(index), calibration.of_layer(index)
    rounds = any(scheme.method == "gptq" for scheme in chosen.values())
    passes = 2 if rounds else 1
    observed = ObservedWeights(tensors, prefix, grams=rounds)
    behind = [_advanced(observed, layer, stream, advance, 0.8 / passes / len(streams)) for stream in streams]
    found: dict[str, RoundedMatrix | Measured] = {}
    replaced: dict[str, Floats] = {}
    for module, scheme in chosen.items():
        inputs = observed.statistics[_SAME_ROWS.get(module, module)]
        if scheme.method == "gptq":
            weight, hessian, size = observed.matrix(module), inputs.hessian, calibration.group_size
            levels, scales = gptq_levels(weight, hessian, size, scheme.divisors)
            replaced[module] = dequantize(levels, scales, size)
            lost = _power(replaced[module] - weight, hessian) / max(_power(weight, hessian), 1e-30)
            found[f"{prefix}{module}"] = RoundedMatrix(levels, scales, lost)
        else:
            found[f"{prefix}{module}"] = _measured(observed, module, inputs, scheme, calibration)
        advance(0.2 / len(chosen), "")
    if rounds:
        rounded_layer = ObservedWeights(tensors, prefix, replaced=replaced)
        behind = [_advanced(rounded_layer, layer, stream, advance, 0.4 / len(streams)) for stream in streams]
    streams[:] = behind
    return found


def _power(weight: Floats, hessian: Floats) -> float:
    """The mean square of all outputs together."""
    return float(np.vdot(weight @ hessian, weight))


def _advanced(weights: ObservedWeights, layer: LayerSpec, stream: Floats, advance: Advance, share: float) -> Floats:
    result: Floats = decoder_layer(weights, layer, stream)
    advance(share, "")
    return result


def _measured(
    observed: ObservedWeights, module: str, inputs: InputStatistics, scheme: QuantScheme, calibration: Calibration
) -> Measured:
    """Maxima, and for SmoothQuant factors. Matrices that read the same rows share both."""
    source = _SAME_ROWS.get(module, module)
    sharing = [source, *(name for name, other in _SAME_ROWS.items() if other == source)]
    matrices = [observed.matrix(name) for name in sharing if observed.has(name)]
    columns = np.max([np.abs(matrix).max(axis=0) for matrix in matrices], axis=0)
    factors = None
    if scheme.method == "smoothquant":
        factors = smoothing_factors(inputs.greatest, columns, calibration.smoothing)
    return Measured(float(inputs.greatest.max()), float(columns.max()), factors)

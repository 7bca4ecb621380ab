"""Calibration layer by layer: what each product is given is observed, its matrix is rounded, and the next layer sees
what the rounded one makes of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from inflight.convert.calibration.gptq import gptq_levels
from inflight.convert.calibration.statistics import Floats, InputStatistics, ObservedWeights
from inflight.convert.checkpoint.model_spec import LayerSpec, ModelSpec
from inflight.convert.checkpoint.reference_decoder import TensorReader, decoder_layer
from inflight.convert.quantization.round_to_nearest import Levels, dequantize
from inflight.convert.quantization.schemes import QuantScheme

LAYER = "transformer.layers.{}."
# The levels and scales of a matrix, by its module's path.
Rounded = Mapping[str, tuple[Levels, Floats]]
Advance = Callable[[float, str], None]


def embedded(tensors: TensorReader, spec: ModelSpec, sequences: Sequence[np.ndarray]) -> list[Floats]:
    """The residual stream [tokens, hidden] of each sequence before the first layer."""
    table = tensors.array("transformer.vocab_embedding.weight")
    scale = np.float32(spec.embedding_scale)
    return [table[ids].astype(np.float32) * scale for ids in sequences]


def calibrate_layer(
    tensors: TensorReader,
    index: int,
    layer: LayerSpec,
    schemes: Mapping[str, QuantScheme],
    group_size: int,
    streams: list[Floats],
    advance: Advance,
) -> Rounded:
    """The matrices of a layer, those with a scheme in `schemes` (by module path), rounded for these streams.

    `streams`, the residual streams before the layer, are replaced by those behind it, one after the other. `advance` is
    called with shares of the layer's work.
    """
    prefix = LAYER.format(index)
    observed = ObservedWeights(tensors, prefix)
    for stream in streams:
        decoder_layer(observed, layer, stream)
        advance(0.4 / len(streams), f"layer {index}")
    rounded = {}
    replaced = {}
    chosen = {path.removeprefix(prefix): scheme for path, scheme in schemes.items() if path.startswith(prefix)}
    for module, scheme in chosen.items():
        inputs = observed.statistics["mlp.fc" if module == "mlp.gate" else module]
        levels, scales = _rounded(observed.matrix(module), inputs, scheme, group_size)
        rounded[f"{prefix}{module}"] = levels, scales
        replaced[module] = dequantize(levels, scales, group_size)
        advance(0.2 / len(chosen), f"layer {index}")
    behind = ObservedWeights(tensors, prefix, replaced)
    for number, stream in enumerate(streams):
        streams[number] = decoder_layer(behind, layer, stream)
        advance(0.4 / len(streams), f"layer {index}")
    return rounded


def _rounded(weight: Floats, inputs: InputStatistics, scheme: QuantScheme, group_size: int) -> tuple[Levels, Floats]:
    return gptq_levels(weight, inputs.hessian, group_size, scheme.divisors)


def source_parts(names: Sequence[str], parts: Sequence[int], rounded: tuple[Levels, Floats]) -> Iterator[tuple]:
    """(source tensor, levels, scales) of a module that is made of several source tensors, each of `parts` rows."""
    ends = np.cumsum(parts)[:-1]
    yield from zip(names, np.split(rounded[0], ends), np.split(rounded[1], ends), strict=True)

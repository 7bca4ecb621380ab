"""The KV cache that a new checkpoint asks for: its type, and the factors of an FP8 cache as tensors of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from inflight.convert.checkpoint.cache_factors import BOTH, KEYS, VALUES, factor_name
from inflight.convert.checkpoint.layout import stage_layers
from inflight.convert.options import ConvertOptions
from inflight.convert.plan import ConversionPlan, Piece, PlannedTensor
from inflight.convert.quantization.round_to_nearest import FLOAT8_GREATEST
from inflight.convert.source.opened import SourceModel
from inflight.convert.source.tensor import Array, SourceTensor


class _Number(SourceTensor):
    """A float32 (1,) that no file holds."""

    shape, dtype, nbytes = (1,), "float32", 0

    def __init__(self, name: str, value: float) -> None:
        self.name, self._value = name, value

    def rows(self, start: int, stop: int) -> Array:
        return np.array([self._value], np.float32)[start:stop]


def fp8_factors(greatest: Mapping[int, tuple[float, float]]) -> dict[int, tuple[float, float]]:
    """Factors by layer from the greatest magnitudes of keys and values, as ModelOpt has them: never below 1, since E4M3
    has small numbers enough.
    """
    return {
        layer: (max(keys / FLOAT8_GREATEST, 1.0), max(values / FLOAT8_GREATEST, 1.0))
        for layer, (keys, values) in greatest.items()
    }


def with_cache(plan: ConversionPlan, source: SourceModel, options: ConvertOptions) -> ConversionPlan:
    """The plan of a checkpoint that asks for the cache of `options`, by default for that of the source.

    An FP8 cache has the source's factors, which may be those that calibration measured, and 1 where there are none.
    """
    asked = options.kv_cache_dtype
    if asked == "auto":
        asked = "auto" if source.cache_factors is None else "fp8"
    if asked == "auto":
        return plan
    facts = plan.config.quantization.model_copy(update={"kv_cache_quant_algo": asked.upper()})
    config = plan.config.model_copy(update={"quantization": facts})
    ranks = plan.ranks
    if asked == "fp8":
        ranks = tuple(
            (*tensors, *_factors(plan, rank, source.cache_factors or {})) for rank, tensors in enumerate(plan.ranks)
        )
    return replace(plan, config=config, ranks=ranks)


def _factors(plan: ConversionPlan, rank: int, found: Mapping[int, tuple[float, float]]) -> Iterator[PlannedTensor]:
    """One for both, as the format has it, and one for each where they differ; layers count from the stage's first."""
    mapping = plan.config.mapping
    layers = stage_layers(len(plan.spec.layers), mapping.pp_size, rank // mapping.tp_size)
    for local, layer in enumerate(layers):
        keys, values = found.get(layer, (1.0, 1.0))
        numbers = {BOTH: max(keys, values)} | ({} if keys == values else {KEYS: keys, VALUES: values})
        for kind, value in numbers.items():
            name = factor_name(local, kind)
            yield PlannedTensor(name, (1,), (Piece(_Number(name, value), range(1), None),), 0, wide=True)

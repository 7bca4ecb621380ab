"""Factors of an FP8 KV cache: a layer's keys and values are stored divided by them."""

from __future__ import annotations

import numpy as np

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import LAYER_PREFIX
from inflight.convert.quantization.schemes import CACHE_FACTOR
from inflight.errors import CheckpointError

# A checkpoint has one for both; newer writers have one for each as well.
BOTH, KEYS, VALUES = (f"{kind}{CACHE_FACTOR}" for kind in ("kv", "k", "v"))
CacheFactors = tuple[tuple[float, float], ...]


def factor_name(layer: int, kind: str) -> str:
    return f"{LAYER_PREFIX}{layer}.attention.{kind}"


def cache_factors(checkpoint: Checkpoint) -> CacheFactors:
    """(keys, values) of each layer of a checkpoint of one rank; 1 where it stores none, nothing where it asks for no
    FP8 cache. Raises CheckpointError naming a tensor that is no number above zero.
    """
    if checkpoint.config.quantization.kv_cache_quant_algo != "FP8":
        return ()
    layers = range(len(checkpoint.spec.layers))
    return tuple((_factor(checkpoint, layer, KEYS), _factor(checkpoint, layer, VALUES)) for layer in layers)


def _factor(checkpoint: Checkpoint, layer: int, kind: str) -> float:
    found = (name for name in (factor_name(layer, each) for each in (kind, BOTH)) if name in checkpoint.tensors)
    name = next(found, None)
    if name is None:
        return 1.0
    values = checkpoint.array(name).astype(np.float32).reshape(-1)
    if values.size != 1 or not np.isfinite(values[0]) or values[0] <= 0:
        raise CheckpointError(
            f"{checkpoint.rank_file()}: {name} must be one number above zero, and is {values[:4].tolist()}.",
            "The checkpoint is broken: quantize the model again.",
        )
    return float(values[0])

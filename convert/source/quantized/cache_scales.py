"""Scales of an FP8 KV cache that a quantized source carries: a key or value is a cached number times its layer's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from inflight.convert.source.stored import read_all
from inflight.errors import ModelError
from inflight.files.tensor_file import TensorEntry

# k_proj.k_scale (ModelOpt), k_scale and attn.k_scale (compressed-tensors, vLLM); kv_scale is one for both.
_NAME = re.compile(r".*\blayers\.(\d+)\.self_attn\.(?:[kv]_proj\.|attn\.)?(kv|k|v)_scale")
_KINDS = {"k": (0,), "v": (1,), "kv": (0, 1)}

Factors = Mapping[int, tuple[float, float]]


def asks_for_fp8_cache(config: Mapping[str, Any]) -> bool:
    """Whether a quantization_config speaks of an FP8 cache, as ModelOpt or as compressed-tensors does."""
    scheme = config.get("kv_cache_scheme")
    floats = isinstance(scheme, dict) and (scheme.get("type"), scheme.get("num_bits")) == ("float", 8)
    return floats or str(config.get("kv_cache_quant_algo")).upper() == "FP8"


def cache_scales(model: str, config: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> Factors | None:
    """(keys, values) of the layers that have some; None where `config`, a quantization_config, asks for no FP8 cache.

    Raises ModelError naming a scale that is no number above zero.
    """
    if not asks_for_fp8_cache(config):
        return None
    found: dict[int, list[float]] = {}
    for name, entry in entries.items():
        match = _NAME.fullmatch(name)
        for side in _KINDS[match[2]] if match else ():
            assert match is not None
            found.setdefault(int(match[1]), [1.0, 1.0])[side] = _number(model, entry)
    return {layer: (keys, values) for layer, (keys, values) in found.items()}


def _number(model: str, entry: TensorEntry) -> float:
    values = read_all(entry).astype(np.float32).reshape(-1)
    if values.size != 1 or not np.isfinite(values[0]) or values[0] <= 0:
        raise ModelError(
            f"{model}: {entry.name} must be one number above zero, and is {values[:4].tolist()}.",
            "Download or quantize the model again.",
        )
    return float(values[0])

"""Rotary parameters of a GGUF file, where some scalings are keys of the metadata and others a tensor of factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from inflight.convert.source.gguf.tensors import GgufTensor
from inflight.errors import ModelError

# Of Llama 3.1 and 3.2; the factor is 8 or 32.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_TOLERANCE = 1e-5


def rope_parameters(
    file: str, keys: Mapping[str, Any], config: Mapping[str, Any], tensors: Mapping[str, GgufTensor]
) -> dict[str, Any]:
    """rope_theta, rope_scaling and partial_rotary_factor of config.json, of the metadata's `rope.` keys.

    Raises ModelError for a scaling that is not known, and where more of a head turns than there is.
    """
    result: dict[str, Any] = {"rope_theta": keys.get("rope.freq_base", 10000.0)}
    size, turned = config["head_dim"], keys.get("rope.dimension_count")
    if isinstance(size, int) and isinstance(turned, int) and turned > size:
        raise ModelError(
            f"{file}: rope.dimension_count is {turned}, and heads have {size} values.",
            "Convert the model to GGUF again.",
        )
    if isinstance(size, int) and isinstance(turned, int) and 0 < turned < size:
        result["partial_rotary_factor"] = turned / size
    scaling = _scaling(file, keys, config, tensors, result["rope_theta"])
    return result | ({"rope_scaling": scaling} if scaling else {})


def _scaling(
    file: str, keys: Mapping[str, Any], config: Mapping[str, Any], tensors: Mapping[str, GgufTensor], base: float
) -> dict[str, Any] | None:
    positions = config["max_position_embeddings"]
    original = keys.get("rope.scaling.original_context_length", positions)
    if "rope_factors_short.weight" in tensors or "rope_factors_long.weight" in tensors:
        lists = {f"{length}_factor": _factors(tensors, f"rope_factors_{length}.weight") for length in ("short", "long")}
        attention = keys.get("rope.scaling.attn_factor")
        return {"rope_type": "longrope", "original_max_position_embeddings": original, **lists} | (
            {} if attention is None else {"attention_factor": attention}
        )
    if "rope_freqs.weight" in tensors:
        return _of_factors(_factors(tensors, "rope_freqs.weight") or [], positions, base)
    kind, factor = keys.get("rope.scaling.type", "none"), keys.get("rope.scaling.factor")
    if kind == "none" or (kind == "linear" and factor in (None, 0, 1)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        beta = {name: keys.get(f"rope.scaling.yarn_{name}") for name in ("beta_fast", "beta_slow")}
        given = {name: value for name, value in beta.items() if value is not None}
        log = keys.get("rope.scaling.yarn_log_multiplier")
        if isinstance(log, float) and config["model_type"].startswith("deepseek"):
            # A tenth of mscale_all_dim; the file does not say mscale, and llama.cpp takes both to be the same.
            given |= dict.fromkeys(("mscale", "mscale_all_dim"), float(str(np.float32(log * 10))))
        if config["model_type"] == "gpt_oss":
            given["truncate"] = False
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **given}
    raise ModelError(f"{file}: rope scaling {kind!r} is not supported.", "Supported in GGUF: none, linear, yarn.")


def _factors(tensors: Mapping[str, GgufTensor], name: str) -> list[float] | None:
    if name not in tensors:
        return None
    return [float(str(factor)) for factor in tensors[name].rows(0, tensors[name].shape[0]).astype(np.float32)]


def _of_factors(factors: list[float], positions: Any, base: float) -> dict[str, Any] | None:
    """What every frequency is divided by: Llama 3's scaling where it is that, a list of factors otherwise."""
    if all(factor == 1 for factor in factors):
        return None
    llama3 = {"rope_type": "llama3", "factor": max(factors), **_LLAMA3}
    expected = _llama3_factors(llama3, len(factors), base)
    if np.allclose(factors, expected, rtol=_TOLERANCE, atol=0):
        return llama3
    return {
        "rope_type": "longrope",
        "original_max_position_embeddings": positions,
        "factor": 1.0,
        "attention_factor": 1.0,
        "short_factor": factors,
        "long_factor": factors,
    }


def _llama3_factors(scaling: Mapping[str, Any], count: int, base: float) -> list[float]:
    """Quotients of the frequencies before and after Llama 3's scaling."""
    low, high, original = (scaling[key] for key in _LLAMA3)
    result = []
    for index in range(count):
        wavelength = 2 * math.pi * base ** (index / count)
        if wavelength < original / high:
            result.append(1.0)
        elif wavelength > original / low:
            result.append(float(scaling["factor"]))
        else:
            smooth = (original / wavelength - low) / (high - low)
            result.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return result

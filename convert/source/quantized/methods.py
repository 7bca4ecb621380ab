"""The quantization methods that are read, by the name that config.json has for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from inflight.convert.source.quantized.awq import awq_problems, awq_tensors
from inflight.convert.source.quantized.bitsandbytes import bitsandbytes_problems, bitsandbytes_tensors
from inflight.convert.source.quantized.compressed import compressed_problems, compressed_tensors
from inflight.convert.source.quantized.float8 import float8_problems, float8_tensors
from inflight.convert.source.quantized.gptq import gptq_problems, gptq_tensors
from inflight.convert.source.quantized.modelopt import modelopt_problems, modelopt_tensors
from inflight.convert.source.quantized.mxfp4 import mxfp4_problems, mxfp4_tensors
from inflight.convert.source.quantized.parts import Parts
from inflight.convert.source.tensor import PlainTensor, SourceTensor
from inflight.errors import ModelError
from inflight.files.tensor_file import TensorEntry

# Where config.json says how its weights are quantized; MLX has a place of its own as well.
QUANTIZATION_KEYS = ("quantization_config", "compression_config")
_MLX_KEY = "quantization"
# By these a tensor is known as a part of a quantized matrix, or by a type that plain weights do not have.
_PARTS = ("qweight", "weight_packed", "weight_scale", "weight_scale_inv", "SCB", "absmax", "down_proj_blocks", "scales")
_TYPES = ("int8", "uint8", "uint32", "float8_e4m3fn", "float8_e5m2")


class Method(NamedTuple):
    """`problems` lists what of a quantization_config is not supported, `tensors` reads the quantized tensors."""

    problems: Callable[[Mapping[str, Any]], list[str]]
    tensors: Callable[[Mapping[str, Any], Parts], Iterator[SourceTensor]]


_GPTQ = Method(gptq_problems, gptq_tensors)
_FLOAT8 = Method(float8_problems, float8_tensors)
METHODS: Mapping[str, Method] = {
    "gptq": _GPTQ,
    "awq": Method(awq_problems, awq_tensors),
    "compressed-tensors": Method(compressed_problems, compressed_tensors),
    "fp8": _FLOAT8,
    "fbgemm_fp8": _FLOAT8,
    "modelopt": Method(modelopt_problems, modelopt_tensors),
    "mxfp4": Method(mxfp4_problems, mxfp4_tensors),
    "bitsandbytes": Method(bitsandbytes_problems, bitsandbytes_tensors),
}
# auto-round writes the layouts of others.
_AUTO_ROUND = {"auto_round:auto_gptq": "gptq", "auto_round:auto_awq": "awq"}


def quantization_problems(raw: Mapping[str, Any]) -> list[str]:
    """Why the weights of a model with this config.json cannot be dequantized; empty when they can, or are plain."""
    found = _quantization(raw)
    if found is None:
        return []
    key, config = found
    if not isinstance(config, dict):
        return [f"{key} must be an object, not {config!r}"]
    name = _method(config)
    if name not in METHODS:
        known = ", ".join((*METHODS, "auto-round"))
        return [f"{key}: the weights are quantized by the method {name!r} (supported: {known})"]
    return [f"{key}: {name} with {problem}" for problem in METHODS[name].problems(config)]


def model_tensors(model: str, raw: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> dict[str, SourceTensor]:
    """The tensors of the model, of those that its files hold. Raises ModelError listing parts that are missing or do
    not go together. With a config that is not supported they are those of the files: the plan says why."""
    found = _quantization(raw)
    if found is None or quantization_problems(raw):
        return {name: PlainTensor(entry) for name, entry in entries.items()}
    _, config = found
    parts = Parts(entries)
    method = METHODS[_method(config)]
    quantized = {tensor.name: tensor for tensor in method.tensors(config, parts)}
    if not quantized and not parts.problems and not _is_cache_alone(config):
        said = "no tensor is stored in a way of this method, though config.json or a file beside it names it"
        others = [f"; {shown}, as other methods have it" for shown in islice(_shown(parts.plain()), 1)]
        parts.problems.append("".join([said, *others]))
    if parts.problems:
        listed = "\n".join(f"  {problem}" for problem in parts.listed_problems())
        raise ModelError(
            f"{model} cannot be dequantized as {_method(config)}:\n{listed}", "Download or quantize the model again."
        )
    return {**parts.plain(), **quantized}


def unannounced(raw: Mapping[str, Any], tensors: Mapping[str, SourceTensor]) -> list[str]:
    """That weights are quantized of which the config says nothing, where one of `tensors` shows it."""
    if _quantization(raw) is not None:
        return []
    said = f"config.json has no {QUANTIZATION_KEYS[0]}, and the weights seem to be quantized"
    return [f"{said} ({first}): take the config.json that belongs to them" for first in islice(_shown(tensors), 1)]


def _shown(tensors: Mapping[str, SourceTensor]) -> Iterator[str]:
    """Of each tensor that shows that weights are quantized, its name and type."""
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] in _PARTS or (name.endswith(".weight") and tensor.dtype in _TYPES):
            yield f"{name} is {tensor.dtype}"


def quantization_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says of the quantization; nothing where it is plain."""
    found = _quantization(raw)
    return found[1] if found is not None and isinstance(found[1], dict) else {}


def _is_cache_alone(config: Mapping[str, Any]) -> bool:
    """True where the KV cache is quantized, and no weight."""
    cache = config.get("kv_cache_quant_algo") or config.get("kv_cache_scheme")
    return bool(cache) and config.get("quant_algo") in (None, "NO_QUANT") and not config.get("config_groups")


def _quantization(raw: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The key and its value, unless it is absent or empty."""
    mlx = raw.get(_MLX_KEY)
    keys = (*QUANTIZATION_KEYS, *((_MLX_KEY,) if isinstance(mlx, dict) and "bits" in mlx else ()))
    return next(((key, raw[key]) for key in keys if raw.get(key)), None)


def _method(config: Mapping[str, Any]) -> str:
    """Configs of compressed-tensors and of MLX name no method."""
    name = config.get("quant_method")
    if name is None and "bits" in config and "group_size" in config:
        return "mlx"
    if name is None and "config_groups" in config:
        return "compressed-tensors"
    if name == "auto-round":
        return _AUTO_ROUND.get(str(config.get("packing_format")), "auto-round")
    return "unknown" if name is None else str(name).lower()

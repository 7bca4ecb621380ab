"""Models in NVFP4, packed as ModelOpt and compressed-tensors store them, from the descriptions of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from safetensors.torch import save_file

from tests.models.hf_files import Array, random_tensors, tiny_config, write_model

_GROUP = {"weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}
CONFIGS: dict[str, dict[str, Any]] = {
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": _GROUP},
    },
}


def nvfp4(rng: np.random.Generator, shape: tuple[int, int], method: str) -> tuple[dict[str, torch.Tensor], Array]:
    """Random stored tensors of a matrix, and its numbers in float32 as either tool dequantizes them."""
    codes = rng.integers(0, 16, shape).astype(np.uint8)
    exact = rng.uniform(0.1, 400, (shape[0], shape[1] // 16)).astype(np.float32)
    scales, whole = exact.astype(ml_dtypes.float8_e4m3fn), np.float32(rng.uniform(1e-4, 1e-3))
    stored = {"weight_scale": torch.from_numpy(scales.astype(np.float32)).to(torch.float8_e4m3fn)}
    packed = torch.from_numpy(codes[:, 0::2] | codes[:, 1::2] << 4)
    if method == "modelopt":
        stored |= {"weight": packed, "weight_scale_2": torch.tensor(whole), "input_scale": torch.tensor(1.5)}
        groups = scales.astype(np.float32) * whole
    else:
        divisor = np.float32(1) / whole
        stored |= {"weight_packed": packed, "weight_global_scale": torch.tensor([divisor])}
        stored |= {"input_global_scale": torch.tensor([2.0])}
        groups = scales.astype(np.float32) / divisor
    numbers = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return stored, numbers * np.repeat(groups, 16, axis=1)


def write_nvfp4_model(directory: Path, rng: np.random.Generator, method: str, **changes: Any) -> dict[str, Array]:
    """A model of bfloat16 with random codes; the numbers of its matrices by name."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 8, "torch_dtype": "bfloat16"}
    config = tiny_config(**sizes, num_hidden_layers=1, quantization_config=CONFIGS[method], **changes)
    tensors = random_tensors(config, rng)
    write_model(directory, config, tensors)
    stored, numbers = {}, {}
    for name, array in tensors.items():
        if "proj" not in name:
            stored[name] = torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
            continue
        module = name.removesuffix(".weight")
        parts, numbers[name] = nvfp4(rng, (array.shape[0], array.shape[1]), method)
        stored |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    save_file(stored, directory / "model.safetensors")
    return numbers

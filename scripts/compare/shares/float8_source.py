"""A model in bfloat16 as DeepSeek's writers store it: E4M3 with a scale for each block of 128 x 128."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_BLOCK, _GREATEST = 128, 448.0
_PLAIN = ("embed_tokens", "lm_head", "norm", ".mlp.gate.", "router")


def write_float8(model: Path, directory: Path) -> None:
    """The matrices of all layers but routers, of a model that has a tensor for each expert."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        for name, weight in load_file(file).items():
            if weight.ndim != 2 or any(part in name for part in _PLAIN):
                tensors[name] = weight
                continue
            rows, columns = weight.shape
            wide = torch.nn.functional.pad(weight.float(), (0, -columns % _BLOCK, 0, -rows % _BLOCK))
            blocks = wide.unflatten(0, (-1, _BLOCK)).unflatten(2, (-1, _BLOCK))
            scales = blocks.abs().amax((1, 3)) / _GREATEST
            levels = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            tensors[name] = levels.reshape(wide.shape)[:rows, :columns].contiguous()
            tensors[f"{name}_scale_inv"] = scales
    for file in model.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            shutil.copy(file, directory)
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [_BLOCK, _BLOCK]}
    (directory / "config.json").write_text(json.dumps(config))

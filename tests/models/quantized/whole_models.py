"""Methods whose tools quantize and write a whole model: bitsandbytes and ModelOpt."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.models.quantized.base import Tensors, finish, linears, llama


def bitsandbytes(dtype: torch.dtype, **options: Any) -> Any:
    def make(place: Path) -> None:
        dequantize = importlib.import_module("transformers.integrations.bitsandbytes").dequantize_bnb_weight
        with tempfile.TemporaryDirectory() as plain:
            llama(8, dtype, 64, 128).save_pretrained(plain)
            config = BitsAndBytesConfig(**options)
            model = AutoModelForCausalLM.from_pretrained(
                plain, quantization_config=config, dtype=dtype, device_map="cpu"
            )
        model.save_pretrained(place)
        numbers = {name: dequantize(each.weight, getattr(each, "state", None)) for name, each in linears(model).items()}
        finish(place, {f"{name}.weight": each.to(dtype) for name, each in numbers.items()})

    return make


def modelopt(recipe: str, inter: int = 128) -> Any:
    def make(place: Path) -> None:
        quantization = importlib.import_module("modelopt.torch.quantization")
        export = importlib.import_module("modelopt.torch.export").export_hf_checkpoint
        model = llama(9, torch.bfloat16, 128, inter)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:  # outliers, so that inputs are scaled
                    parameter.mul_(torch.exp(torch.randn_like(parameter)))
        data = torch.randint(0, 32, (4, 32))
        model = quantization.quantize(model, getattr(quantization, recipe), lambda quantized: quantized(data))
        export(model, export_dir=place)
        tensors = load_file(place / "model.safetensors")
        modules = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
        finish(place, {f"{name}.weight": modelopt_numbers(tensors, name).to(torch.bfloat16) for name in modules})

    return make


def modelopt_numbers(tensors: Tensors, module: str) -> torch.Tensor:
    weight, scale = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"].float()
    if weight.dtype == torch.uint8:
        pairs = torch.stack([weight & 0xF, weight >> 4], 1).reshape(-1, weight.shape[1]).to(torch.int16)
        levels = torch.where(pairs > 7, pairs - 16, pairs).float()
        numbers = levels * scale.repeat_interleave(levels.shape[1] // scale.shape[1], 1)
    else:
        rows, width = weight.shape
        if scale.dim() == 4:
            scale = scale[:, 0, :, 0].repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :width]
        numbers = weight.float() * (scale[:, None] if scale.dim() == 1 else scale)
    before = tensors.get(f"{module}.pre_quant_scale")
    return numbers if before is None else numbers * before.float()

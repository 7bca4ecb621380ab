"""Methods whose tools quantize and write a whole model: bitsandbytes and ModelOpt."""

from __future__ import annotations

import copy
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
        model = with_outliers(llama(9, torch.bfloat16, 128, inter))
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


# Recipes, numbers of ranks, and inputs of a block: ModelOpt cuts no block.
EXPORTS = {
    "fp8": ("FP8_DEFAULT_CFG", (1, 2, 4), 32),
    "fp8_rows": ("FP8_PER_CHANNEL_PER_TOKEN_CFG", (1, 2, 4), 32),
    "int8_wo": ("INT8_WEIGHT_ONLY_CFG", (1, 2, 4), 32),
    "int8_static": ("INT8_DEFAULT_CFG", (1,), 32),
    "int8_sq": ("INT8_SMOOTHQUANT_CFG", (1,), 32),
    "int4_max": ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", (1, 2, 4), 16),
    "int4_awq": ("INT4_AWQ_CFG", (1,), 32),
    "w4a8_awq": ("W4A8_AWQ_BETA_CFG", (1,), 32),
}


def tensorrt_llm_exports(place: Path) -> None:
    """`source`, and what ModelOpt exports of it in TensorRT-LLM's form: NAME/tp1, and more ranks of some."""
    quantization = importlib.import_module("modelopt.torch.quantization")
    export = importlib.import_module("modelopt.torch.export").export_tensorrt_llm_checkpoint
    plain = with_outliers(llama(10, torch.bfloat16, 64, 64, num_key_value_heads=4, vocab_size=64))
    plain.save_pretrained(place / "source")
    (place / "source" / "generation_config.json").unlink()
    data = torch.randint(0, 32, (4, 32))
    for name, (recipe, ranks, size) in EXPORTS.items():
        config = in_groups(getattr(quantization, recipe), size)
        model = quantization.quantize(copy.deepcopy(plain), config, lambda quantized: quantized(data))
        for count in ranks:
            split = {"inference_tensor_parallel": count, "inference_pipeline_parallel": 1}
            with torch.inference_mode():
                export(copy.deepcopy(model), "llama", torch.bfloat16, export_dir=place / name / f"tp{count}", **split)


def in_groups(config: Any, size: int) -> Any:
    """A copy of a recipe whose blocks have `size` inputs."""
    text = copy.deepcopy(config)
    for entry in text["quant_cfg"]:
        found = entry.get("cfg") or []
        for each in found if isinstance(found, list) else [found]:
            if "block_sizes" in each:
                each["block_sizes"][-1] = size
    return text


def with_outliers(model: Any) -> Any:
    """In what norms make, so that inputs are scaled."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.mul_(torch.exp(torch.randn_like(parameter)))
    return model

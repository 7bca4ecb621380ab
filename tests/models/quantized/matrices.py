"""Methods whose tools quantize one matrix after the other: compressed-tensors, GPTQ, AWQ and blocks of FP8."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch

from tests.models.quantized.base import linears, llama, others, write


def compressed(form: str, weights: dict[str, Any], dtype: torch.dtype, inputs: dict[str, Any] | None = None) -> Any:
    def make(place: Path) -> None:
        quantization = importlib.import_module("compressed_tensors.quantization")
        parameters = importlib.import_module("compressed_tensors.quantization.utils").calculate_qparams
        base = importlib.import_module("compressed_tensors.compressors.base").BaseCompressor
        blocks = weights["strategy"] == "block"
        model = llama(0, dtype, *((128, 192) if blocks else (64, 96)))
        given = quantization.QuantizationArgs(**weights)
        acts = quantization.QuantizationArgs(**inputs) if inputs else None
        scheme = quantization.QuantizationScheme(targets=["Linear"], weights=given, input_activations=acts, format=form)
        compressor = base.get_value_from_registry(form)
        tensors, expected = others(model), {}
        for name, linear in linears(model).items():
            weight = linear.weight.data
            scale, zero = parameters(*extremes(weight, weights), given)
            state = {"weight": weight, "weight_scale": scale.to(dtype), "weight_zero_point": zero}
            stored = compressor.compress(state, scheme)
            tensors |= {f"{name}.{part}": each for part, each in stored.items() if each is not None}
            if inputs and not inputs.get("dynamic"):
                tensors[f"{name}.input_scale"] = torch.tensor([0.5], dtype=dtype)
            expected[f"{name}.weight"] = compressor.decompress(stored, scheme)["weight"].to(dtype)
        config = {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed"}
        groups = {"config_groups": {"group_0": json.loads(scheme.model_dump_json())}, "ignore": ["lm_head"]}
        write(place, model, tensors, config | groups, expected)

    return make


def extremes(weight: torch.Tensor, how: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    rows, width = weight.shape
    if how["strategy"] == "tensor":
        return weight.amin().reshape(1), weight.amax().reshape(1)
    if how["strategy"] == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if how["strategy"] == "group":
        groups = weight.reshape(rows, -1, how["group_size"])
        return groups.amin(-1), groups.amax(-1)
    high, wide = how["block_structure"]
    padded = torch.zeros(-(-rows // high) * high, -(-width // wide) * wide, dtype=weight.dtype)
    padded[:rows, :width] = weight
    blocks = padded.reshape(-(-rows // high), high, -(-width // wide), wide)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


def gptq(bits: int, symmetric: bool, reordered: bool) -> Any:
    def make(place: Path) -> None:
        quantized_linear = importlib.import_module("gptqmodel.nn_modules.qlinear.torch").TorchLinear
        model, size, most = llama(6, torch.float16), 32, 2**bits - 1
        tensors, expected = others(model), {}
        for name, linear in linears(model).items():
            weight = linear.weight.data.float()
            rows, width = weight.shape
            order = torch.arange(width) // size
            order = order[torch.randperm(width)] if reordered else order
            parts = [weight[:, order == group] for group in range(width // size)]
            if symmetric:
                scales = torch.stack([part.abs().amax(1) * 2 / most for part in parts], 1)
                zeros = torch.full_like(scales, 2 ** (bits - 1))
            else:
                low = torch.stack([part.amin(1).clamp(max=0) for part in parts], 1)
                high = torch.stack([part.amax(1).clamp(min=0) for part in parts], 1)
                scales = (high - low) / most
                zeros = torch.round(-low / scales).clamp(1, most)
            packed = quantized_linear(
                bits=bits, group_size=size, sym=symmetric, desc_act=reordered, in_features=width, out_features=rows,
                bias=False, pack_dtype=torch.int32, register_buffers=True, backend=None,
            )  # fmt: skip
            plain = torch.nn.Linear(width, rows, bias=False)
            plain.weight.data = weight
            packed.pack(plain, scales, zeros, order.to(torch.int32))
            packed.post_init()
            expected[f"{name}.weight"] = packed.dequantize_weight().T.to(torch.float16)
            # The tool keeps zero points as they are; the first version of the format stores them less 1.
            one = sum(1 << (bits * place) for place in range(32 // bits))
            less = (packed.qzeros.to(torch.int64) - one).bitwise_and(0xFFFFFFFF)
            tensors[f"{name}.qzeros"] = torch.where(less >= 1 << 31, less - (1 << 32), less).to(torch.int32)
            for part in ("qweight", "scales", "g_idx"):
                tensors[f"{name}.{part}"] = getattr(packed, part)
        config = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": symmetric, "desc_act": reordered}
        write(place, model, tensors, config | {"checkpoint_format": "gptq", "lm_head": False}, expected)

    return make


def awq(place: Path) -> None:
    gemm = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    dequantize = importlib.import_module("awq.utils.packing_utils").dequantize_gemm
    model, size = llama(7, torch.float16), 32
    tensors, expected = others(model), {}
    for name, linear in linears(model).items():
        weight = linear.weight.data.float()
        rows, width = weight.shape
        groups = weight.reshape(rows, -1, size)
        scale = (groups.amax(-1) - groups.amin(-1)).clamp(min=1e-5) / 15
        zero = (-torch.round(groups.amin(-1) / scale)).clamp(0, 15)
        levels = torch.clamp(torch.round(groups / scale[..., None]) + zero[..., None], 0, 15)
        plain = torch.nn.Linear(width, rows, bias=False).half()
        plain.weight.data = ((levels - zero[..., None]) * scale[..., None]).reshape(rows, width).half()
        packed = gemm.from_linear(plain, 4, size, scales=scale.half().T.contiguous(), zeros=zero.T.contiguous())
        tensors |= {f"{name}.{part}": getattr(packed, part) for part in ("qweight", "qzeros", "scales")}
        numbers = dequantize(packed.qweight, packed.qzeros, packed.scales, 4, size)
        expected[f"{name}.weight"] = numbers.T
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "gemm"}
    write(place, model, tensors, config, expected)


def float8_blocks(place: Path) -> None:
    tool = importlib.import_module("transformers.integrations.finegrained_fp8").Fp8Dequantize(None)
    model, size = llama(5, torch.bfloat16), 32
    tensors, expected = others(model), {}
    for name, linear in linears(model).items():
        rows, width = linear.weight.shape
        blocks = linear.weight.data.float().reshape(rows // size, size, width // size, size)
        scale = blocks.abs().amax((1, 3)) / 448
        levels = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn).reshape(rows, width)
        tensors |= {f"{name}.weight": levels, f"{name}.weight_scale_inv": scale}
        expected[f"{name}.weight"] = tool._dequantize_one(levels, scale, torch.bfloat16)
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [size, size]}
    write(place, model, tensors, config, expected)

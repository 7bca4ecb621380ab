"""transformers with a quantized checkpoint's numbers: weights times their scales, and rows rounded on the way in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.files.tensor_file import map_array
from tests.network.support import Case, LinearRunner, random_chunks, relative_error

Floats = npt.NDArray[np.float32]


def errors_beside_transformers(case: Case, rng: np.random.Generator, count: int) -> list[float]:
    """The relative error of the network's logits in ONNX Runtime to those of transformers with the same numbers, for
    `count` random prompts in random chunks. The network is checked by ONNX as well.
    """
    quantize_oracle(case)
    runner = LinearRunner(case.checkpoint, 64, batch=1)
    onnx.checker.check_model(str(runner.path), full_check=True)
    errors = []
    for _ in range(count):
        tokens = rng.integers(case.checkpoint.config.vocab_size, size=6)
        errors.append(relative_error(runner.run(random_chunks(rng, tokens)), case.expected(tokens.tolist())))
    return errors


def quantize_oracle(case: Case) -> None:
    """Give the oracle's covered matrices the checkpoint's values, and round their rows to 8 bits where it says so."""
    for module, name, weight in _modules(case):
        quantization = case.checkpoint.quantization_of(name)
        if quantization is None:
            continue
        with torch.no_grad():
            module.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight)))
        if quantization.scaled_inputs:
            factors = torch.from_numpy(case.checkpoint.array(f"{name}.prequant_scaling_factor").astype(np.float32))
            module.register_forward_pre_hook(lambda _, rows, factors=factors: (rows[0] * factors,))
        if quantization.activations == "float8_e4m3fn":
            stored = quantization.row_scale_name(name)
            scale = None if stored is None else float(case.checkpoint.array(stored)[0])
            limits = quantization.row_limits or (-torch.inf, torch.inf)
            module.register_forward_pre_hook(
                lambda _, rows, scale=scale, limits=limits: (_float8(rows[0].clamp(*limits), scale),)
            )
        elif quantization.scheme.rows.scale == "stored":
            scale = float(case.checkpoint.array(f"{name}.activation_scaling_factor")[0])
            module.register_forward_pre_hook(
                lambda _, rows, scale=scale: ((rows[0] / scale).round().clamp(-128, 127) * scale,)
            )
        elif quantization.activations == "int8":
            module.register_forward_pre_hook(lambda _, rows: (_rounded(rows[0]),))


def _modules(case: Case) -> Iterator[tuple[Any, str, Floats]]:
    """(transformers' module, the checkpoint's module, weight float32 [out, in])."""
    checkpoint, model = case.checkpoint, case.oracle
    config = checkpoint.config
    sizes = np.cumsum([config.num_attention_heads, config.num_key_value_heads]) * config.head_size
    for index, layer in enumerate(model.model.layers):
        name = f"transformer.layers.{index}"
        attention, mlp = layer.self_attn, layer.mlp
        qkv = f"{name}.attention.qkv"
        parts = np.split(_dequantized(checkpoint, qkv), sizes)
        for module, part in zip((attention.q_proj, attention.k_proj, attention.v_proj), parts, strict=True):
            yield module, qkv, part
        others = {"attention.dense": attention.o_proj, "mlp.fc": mlp.gate_proj, "mlp.gate": mlp.up_proj}
        for suffix, module in {**others, "mlp.proj": mlp.down_proj}.items():
            yield module, f"{name}.{suffix}", _dequantized(checkpoint, f"{name}.{suffix}")
    if checkpoint.spec.lm_head:
        yield model.lm_head, "lm_head", _dequantized(checkpoint, "lm_head")


def _dequantized(checkpoint: Checkpoint, module: str) -> Floats:
    quantization = checkpoint.quantization_of(module)
    stored = map_array(checkpoint.tensors[f"{module}.weight"])
    if quantization is None:
        return stored.astype(np.float32)
    scale = map_array(checkpoint.tensors[quantization.scale_name(module)])
    if scale.ndim == 1:
        return np.asarray(stored.astype(np.float32) * scale[:, None], np.float32)
    levels = stored.astype(np.float32)
    if quantization.bits == 4:
        nibbles = np.stack([stored & 15, stored.view(np.uint8) >> 4], axis=1).reshape(-1, stored.shape[1])[: len(scale)]
        levels = ((nibbles.astype(np.int8) ^ 8) - 8).astype(np.float32)
    zero = map_array(checkpoint.tensors[f"{module}.zero"]) if quantization.zero_points else np.zeros_like(scale)
    wide, shift = (np.repeat(each, quantization.group_size, axis=1)[:, : levels.shape[1]] for each in (scale, zero))
    return np.asarray(levels * wide + shift, np.float32)


def _rounded(rows: torch.Tensor) -> torch.Tensor:
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(2.0**-100) / 127
    return (rows * (1 / scale)).round().clamp(-127, 127) * scale


def _float8(rows: torch.Tensor, stored: float | None) -> torch.Tensor:
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(2.0**-100) / 448 if stored is None else stored
    return (rows / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale

"""transformers with a quantized checkpoint's numbers: weights times their scales, and rows rounded on the way in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from inflight.convert.checkpoint import Checkpoint
from inflight.convert.tensor_file import map_array
from tests.network.support import Case

Floats = npt.NDArray[np.float32]


def quantize_oracle(case: Case) -> None:
    """Give the oracle's matrices the checkpoint's values, and round their rows to 8 bits where its facts say so."""
    quantization = case.checkpoint.quantization
    assert quantization is not None
    for module, weight in _modules(case):
        with torch.no_grad():
            module.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight)))
        if quantization.activations == "int8":
            module.register_forward_pre_hook(lambda _, rows: (_rounded(rows[0]),))


def _modules(case: Case) -> Iterator[tuple[Any, Floats]]:
    checkpoint, model = case.checkpoint, case.oracle
    config = checkpoint.config
    sizes = np.cumsum([config.num_attention_heads, config.num_key_value_heads]) * config.head_size
    for index, layer in enumerate(model.model.layers):
        name = f"transformer.layers.{index}"
        parts = np.split(_dequantized(checkpoint, f"{name}.attention.qkv"), sizes)
        attention, mlp = layer.self_attn, layer.mlp
        yield from zip((attention.q_proj, attention.k_proj, attention.v_proj), parts, strict=True)
        yield attention.o_proj, _dequantized(checkpoint, f"{name}.attention.dense")
        yield mlp.gate_proj, _dequantized(checkpoint, f"{name}.mlp.fc")
        yield mlp.up_proj, _dequantized(checkpoint, f"{name}.mlp.gate")
        yield mlp.down_proj, _dequantized(checkpoint, f"{name}.mlp.proj")
    yield model.lm_head, _dequantized(checkpoint, "lm_head")


def _dequantized(checkpoint: Checkpoint, module: str) -> Floats:
    quantization = checkpoint.quantization
    assert quantization is not None
    stored = map_array(checkpoint.tensors[f"{module}.weight"])
    scale = map_array(checkpoint.tensors[quantization.scale_name(module)])
    if quantization.bits == 8:
        return (stored * scale[:, None]).astype(np.float32)
    nibbles = np.stack([stored & 15, stored.view(np.uint8) >> 4], axis=1).reshape(-1, stored.shape[1])[: len(scale)]
    levels = ((nibbles.astype(np.int8) ^ 8) - 8).astype(np.float32)
    return (levels * np.repeat(scale, quantization.group_size, axis=1)[:, : levels.shape[1]]).astype(np.float32)


def _rounded(rows: torch.Tensor) -> torch.Tensor:
    scale = rows.abs().amax(-1, keepdim=True).clamp_min(2.0**-100) / 127
    return (rows * (1 / scale)).round().clamp(-127, 127) * scale

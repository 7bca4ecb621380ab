"""The models that are quantized, and how a quantized one is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

Tensors = dict[str, torch.Tensor]


def llama(seed: int, dtype: torch.dtype, hidden: int = 64, inter: int = 96, **further: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": hidden, "intermediate_size": inter, "head_dim": hidden // 4, "vocab_size": 32}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    lengths: dict[str, Any] = {"max_position_embeddings": 64, "tie_word_embeddings": True, "eos_token_id": 2}
    config = LlamaConfig(**{**sizes, **heads, **lengths, **further}, architectures=["LlamaForCausalLM"])
    model = LlamaForCausalLM(config).to(dtype)
    config.dtype = dtype
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1 + torch.rand_like(parameter))
            if "norm" in name:
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter))
    return model


def linears(model: Any) -> dict[str, Any]:
    modules = model.named_modules()
    return {name: each for name, each in modules if isinstance(each, torch.nn.Linear) and "lm_head" not in name}


def others(model: Any) -> Tensors:
    """What no method touches."""
    left_out = {*linears(model), "lm_head"}
    return {name: each for name, each in model.state_dict().items() if name.rpartition(".")[0] not in left_out}


def write(place: Path, model: Any, tensors: Tensors, quantization: dict[str, Any], expected: Tensors) -> None:
    model.config.save_pretrained(place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}, indent=1))
    save_file({name: each.contiguous() for name, each in tensors.items()}, place / "model.safetensors")
    finish(place, expected)


def finish(place: Path, expected: Tensors) -> None:
    for path in place.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()

    def digest(tensor: torch.Tensor) -> str:
        return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()

    text = json.dumps({name: digest(each) for name, each in sorted(expected.items())}, indent=1)
    (place / "expected.json").write_text(text)

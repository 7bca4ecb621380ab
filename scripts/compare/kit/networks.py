"""Random networks of the kit, written without torch as a Hugging Face model is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

_COMMON: Mapping[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 224,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 257,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {**_COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "mlp_bias": False}
_QWEN3 = {**_COMMON, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
# Name of the engine to the network and the options of its conversion.
SHAPES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "llama-float32": ({**LLAMA, "torch_dtype": "float32"}, {}),
    "qwen3-bfloat16": ({**_QWEN3, "torch_dtype": "bfloat16"}, {}),
    "llama-int8-rows": ({**LLAMA, "torch_dtype": "float32"}, {"quantize": "int8_w8a8"}),
    "llama-fp8": ({**LLAMA, "torch_dtype": "float32"}, {"quantize": "fp8_rowwise"}),
    "qwen3-int4": ({**_QWEN3, "torch_dtype": "float32"}, {"quantize": "int4_wo", "group_size": 32}),
}
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def write_network(directory: Path, shape: Mapping[str, Any]) -> None:
    """config.json and model.safetensors: normal numbers of a variance of one over the inputs, norms near one."""
    rng, hidden, inner = np.random.default_rng(7), shape["hidden_size"], shape["intermediate_size"]
    heads, kv_heads = (shape[name] * shape["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab_size"], hidden)}
    sizes |= {"lm_head.weight": (shape["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(shape["num_hidden_layers"]):
        matrices: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,)),
            "self_attn.q_proj": (heads, hidden),
            **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (kv_heads, hidden)),
            "self_attn.o_proj": (hidden, heads),
            **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (inner, hidden)),
            "mlp.down_proj": (hidden, inner),
        }
        if shape["model_type"] == "qwen3":
            matrices |= dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), (shape["head_dim"],))
        sizes |= {f"model.layers.{layer}.{name}.weight": size for name, size in matrices.items()}
    dtype = _DTYPES[shape["torch_dtype"]]
    tensors = {name: _random(rng, size).astype(dtype) for name, size in sizes.items()}
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(dict(shape)))


def _random(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if len(size) == 1:
        return 1 + 0.1 * rng.standard_normal(size)
    return np.asarray(rng.standard_normal(size) * size[-1] ** -0.5)

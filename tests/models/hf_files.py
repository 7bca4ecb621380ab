"""Hugging Face models written straight to files, without torch: random weights under the names transformers uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "ministral": "MinistralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def tiny_config(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """A config.json of odd sizes; a change to None removes the key."""
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": "gemma3_text" if family == "gemma3" else family,
        "vocab_size": 37,
        "hidden_size": 20,
        "intermediate_size": 28,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 6,
        **({} if family.startswith("gemma") else {"hidden_act": "silu"}),
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": 2,
        "bos_token_id": 1,
    } | changes
    return {key: value for key, value in config.items() if value is not None or key == "sliding_window"}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors that transformers saves for a model of this config."""
    hidden, inter, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    qwen2, qwen3, gemma3 = (f"{name}ForCausalLM" in config["architectures"] for name in ("Qwen2", "Qwen3", "Gemma3"))
    gemma = gemma3 or "Gemma2ForCausalLM" in config["architectures"]
    bias, mlp_bias = config.get("attention_bias", False), config.get("mlp_bias", False)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        linears = {
            "self_attn.q_proj": (q, hidden, bias or qwen2),
            "self_attn.k_proj": (kv, hidden, bias or qwen2),
            "self_attn.v_proj": (kv, hidden, bias or qwen2),
            "self_attn.o_proj": (hidden, q, bias),
            "mlp.gate_proj": (inter, hidden, mlp_bias),
            "mlp.up_proj": (inter, hidden, mlp_bias),
            "mlp.down_proj": (hidden, inter, mlp_bias),
        }
        for name, (rows, columns, has_bias) in linears.items():
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        feedforward = ("pre_feedforward_layernorm", "post_feedforward_layernorm") if gemma else ()
        for name in ("input_layernorm", "post_attention_layernorm", *feedforward):
            shapes[f"{prefix}{name}.weight"] = (hidden,)
        if qwen3 or gemma3:
            shapes[f"{prefix}self_attn.q_norm.weight"] = shapes[f"{prefix}self_attn.k_norm.weight"] = (head,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_tensors(config: dict[str, Any], rng: np.random.Generator, dtype: str = "float32") -> dict[str, Array]:
    return {
        name: rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype])
        for name, shape in tensor_shapes(config).items()
    }


def write_model(directory: Path, config: dict[str, Any], tensors: dict[str, Array], shards: int = 1) -> Path:
    """Write config.json and the tensors, over several files with an index when `shards` is more than 1."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return directory
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory

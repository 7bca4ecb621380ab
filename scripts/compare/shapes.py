"""The models of the benchmark: random weights in the shapes of well-known ones, written without torch, and the
demonstration model of this repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from compare.engines.base import prepared_once
from compare.tokenizer import write_tokenizer

DEMO = "demo"
DEMO_MODEL = Path(__file__).resolve().parents[2] / "assets" / "demo-model"

QWEN2_0_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
LLAMA_3_2_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
GRANITE_MOE: dict[str, Any] = {
    "architectures": ["GraniteMoeForCausalLM"],
    "model_type": "granitemoe",
    "hidden_size": 1024,
    "intermediate_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "num_experts_per_tok": 8,
    "vocab_size": 49155,
    "max_position_embeddings": 131072,
    "rope_theta": 1500000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.015625,
    "residual_multiplier": 0.22,
    "logits_scaling": 6.0,
    "torch_dtype": "bfloat16",
    "bos_token_id": 49152,
    "eos_token_id": 49154,
}
RANDOM_SHAPES = {
    "qwen2-0.5b": QWEN2_0_5B,
    "llama-3.2-1b": LLAMA_3_2_1B,
    "granite-3.1-1b-a400m": GRANITE_MOE,
    "granite-3.1-1b-a400m-12-layers": {**GRANITE_MOE, "num_hidden_layers": 12},
}
SHAPES = (*RANDOM_SHAPES, DEMO)


def model_directory(shape: str, cache: Path) -> Path:
    """The Hugging Face directory of `shape`; a random model is written into `cache` once, the same bytes everywhere."""
    if shape == DEMO:
        return DEMO_MODEL
    return prepared_once(cache / shape / "model", lambda partial: _write_random_model(partial, shape))


def _write_random_model(directory: Path, shape: str) -> None:
    directory.mkdir()
    config = RANDOM_SHAPES[shape]
    rng = np.random.default_rng(0)
    tensors = {
        name: np.ones(dims, ml_dtypes.bfloat16)
        if "norm" in name
        else (rng.standard_normal(dims, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
        for name, dims in tensor_shapes(config).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    ordinary = config["bos_token_id"]  # tokens made of bytes; those from here on are special
    special = [f"<|special_{number}|>" for number in range(ordinary, config["eos_token_id"] + 1)]
    write_tokenizer(directory, ordinary, special, end_token=special[-1])


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a model with this config by their names; its head is tied."""
    hidden = config["hidden_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q", query), ("k", key), ("v", key)):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (rows, hidden)
            if config["model_type"] == "qwen2":
                shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, query)
        shapes.update(_mlp_shapes(config, prefix))
        shapes[f"{prefix}.input_layernorm.weight"] = shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
    return shapes


def _mlp_shapes(config: dict[str, Any], prefix: str) -> dict[str, tuple[int, ...]]:
    """Of one layer; a mixture has its experts in two stacks."""
    hidden, inter, experts = config["hidden_size"], config["intermediate_size"], config.get("num_local_experts")
    if experts is None:
        matrices = {"gate": (inter, hidden), "up": (inter, hidden), "down": (hidden, inter)}
        return {f"{prefix}.mlp.{name}_proj.weight": dims for name, dims in matrices.items()}
    return {
        f"{prefix}.block_sparse_moe.router.layer.weight": (experts, hidden),
        f"{prefix}.block_sparse_moe.input_linear.weight": (experts, 2 * inter, hidden),
        f"{prefix}.block_sparse_moe.output_linear.weight": (experts, hidden, inter),
    }

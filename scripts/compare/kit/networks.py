"""Random networks of the kit, written without torch as a Hugging Face model is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
# Every row meets every expert: no choice hangs on the last bit of a number.
_MIXTURE = {
    **_COMMON,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
}
_LATENT = {
    **_COMMON,
    "architectures": ["YoutuForCausalLM"],
    "model_type": "youtu",
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
# Rows and heads as wide as a model's, in one layer.
_BROAD: Mapping[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 4096,
}
# Half of that: what GPTQ makes of a pattern is none.
_HALF: Mapping[str, Any] = {
    **_BROAD,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
_LIMITS = {"max_batch_size": 4, "max_seq_len": 64, "max_num_tokens": 48, "max_logit_rows": 8, "tokens_per_block": 16}
_PROMPTS = (9, 1, 17, 6)
_BROAD_LIMITS = {**_LIMITS, "max_seq_len": 320, "max_num_tokens": 384, "tokens_per_block": 64}
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
# A prime number of random numbers, which larger matrices repeat, so that a kit has them once. Every row has one of the
# greatest, so that all are rounded by the same scale.
_PATTERN, _GREATEST_EVERY, _GREATEST = 50021, 1000, 3.5


@dataclass(frozen=True)
class Network:
    """`shape`: its config.json; the options of its conversion, the flags of its build, the tokens of its prompts."""

    shape: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=lambda: _LIMITS)
    prompts: tuple[int, ...] = _PROMPTS


def networks(*, tiny: bool) -> Mapping[str, Network]:
    """By the names of their engines. `tiny`: none is larger than the interpreter can compute."""
    shapes = {name: {**shape, "torch_dtype": "bfloat16"} for name, shape in (("llama", LLAMA), ("qwen3", _QWEN3))}
    floats = {name: {**shape, "torch_dtype": "float32"} for name, shape in shapes.items()}
    # Tiles of 128 rows, of 64 where prompts come in chunks, of 16; more than one split of a context.
    sizes, half = ({}, {}) if tiny else (_BROAD, _HALF)
    flags, prompts = (_LIMITS, _PROMPTS) if tiny else (_BROAD_LIMITS, (290, 40, 1, 17))
    float8 = {"quantize": "fp8_rowwise"}
    return {
        "broad-bfloat16": Network({**shapes["llama"], **sizes}, flags=flags, prompts=prompts),
        "broad-fp8": Network({**shapes["llama"], **half}, float8, {**flags, "kv_cache_dtype": "fp8"}, prompts),
        "latent-bfloat16": Network({**_LATENT, "torch_dtype": "bfloat16"}),
        "llama-float32": Network(floats["llama"]),
        "llama-fp8": Network(floats["llama"], float8),
        "llama-int8-rows": Network(floats["llama"], {"quantize": "int8_w8a8"}),
        "mixture-bfloat16": Network({**_MIXTURE, "torch_dtype": "bfloat16"}),
        "qwen3-bfloat16": Network(shapes["qwen3"]),
        "qwen3-int4": Network(floats["qwen3"], {"quantize": "int4_wo", "group_size": 32}),
    }


def write_network(directory: Path, shape: Mapping[str, Any]) -> None:
    """config.json and model.safetensors: normal numbers of a variance of one over the inputs, norms near one."""
    rng, hidden = np.random.default_rng(7), shape["hidden_size"]
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab_size"], hidden)}
    sizes |= {"lm_head.weight": (shape["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    matrices: dict[str, tuple[int, ...]] = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
    matrices |= {f"self_attn.{name}": size for name, size in _attention(shape).items()}
    matrices |= {f"mlp.{name}": size for name, size in _mlp(shape).items()}
    for layer in range(shape["num_hidden_layers"]):
        sizes |= {f"model.layers.{layer}.{name}.weight": size for name, size in matrices.items()}
    dtype = _DTYPES[shape["torch_dtype"]]
    tensors = {name: _random(rng, size).astype(dtype) for name, size in sizes.items()}
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(dict(shape)))


def _attention(shape: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, count = shape["hidden_size"], shape["num_attention_heads"]
    if shape["model_type"] == "youtu":
        rank, q_rank, values = (shape[name] for name in ("kv_lora_rank", "q_lora_rank", "v_head_dim"))
        plain, rotary = shape["qk_nope_head_dim"], shape["qk_rope_head_dim"]
        return {
            "q_a_proj": (q_rank, hidden),
            "q_a_layernorm": (q_rank,),
            "q_b_proj": (count * (plain + rotary), q_rank),
            "kv_a_proj_with_mqa": (rank + rotary, hidden),
            "kv_a_layernorm": (rank,),
            "kv_b_proj": (count * (plain + values), rank),
            "o_proj": (hidden, count * values),
        }
    size = shape["head_dim"]
    heads, kv_heads = count * size, shape["num_key_value_heads"] * size
    named: dict[str, tuple[int, ...]] = {"q_proj": (heads, hidden), "o_proj": (hidden, heads)}
    named |= dict.fromkeys(("k_proj", "v_proj"), (kv_heads, hidden))
    return named | (dict.fromkeys(("q_norm", "k_norm"), (size,)) if shape["model_type"].startswith("qwen3") else {})


def _mlp(shape: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = shape["hidden_size"]
    if shape["model_type"] != "qwen3_moe":
        return _gated(hidden, shape["intermediate_size"])
    of_each = _gated(hidden, shape["moe_intermediate_size"])
    experts = range(shape["num_experts"])
    named = {f"experts.{expert}.{name}": size for expert in experts for name, size in of_each.items()}
    return {"gate": (len(experts), hidden), **named}


def _gated(hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {**dict.fromkeys(("gate_proj", "up_proj"), (inner, hidden)), "down_proj": (hidden, inner)}


def _random(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if len(size) == 1:
        return 1 + 0.1 * rng.standard_normal(size)
    scale = size[-1] ** -0.5
    if math.prod(size) <= _PATTERN:
        return np.asarray(rng.standard_normal(size) * scale)
    pattern = np.clip(rng.standard_normal(_PATTERN), -_GREATEST, _GREATEST)
    pattern[::_GREATEST_EVERY] = _GREATEST
    return np.resize(pattern * scale, size)

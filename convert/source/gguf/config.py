"""The metadata of a GGUF file as the config.json that its model had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inflight.convert.families.family import Family
from inflight.convert.source.gguf.mixture import expert_sizes, head_sizes
from inflight.convert.source.gguf.names import ARCHITECTURES, KNOWN, Architecture
from inflight.convert.source.gguf.rope import rope_parameters
from inflight.convert.source.gguf.tensors import GgufTensor
from inflight.errors import ModelError

# Key of config.json -> the metadata's, below the architecture's name.
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
_OPTIONAL = {"num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length"}
_GRANITE = {
    "embedding_multiplier": "embedding_scale",
    "attention_multiplier": "attention.scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
_FURTHER: Mapping[str, Mapping[str, str]] = {
    "gemma2": {
        "sliding_window": "attention.sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    "gemma3": {
        "sliding_window": "attention.sliding_window",
        "final_logit_softcapping": "final_logit_softcapping",
        "rope_local_base_freq": "rope.freq_base_swa",
    },
    "granite": _GRANITE,
    "granitemoe": {**_GRANITE, "shared_intermediate_size": "expert_shared_feed_forward_length"},
    "olmoe": {"clip_qkv": "attention.clamp_kqv"},
    "gpt-oss": {"sliding_window": "attention.sliding_window"},
    "deepseek2": {
        "kv_lora_rank": "attention.kv_lora_rank",
        "q_lora_rank": "attention.q_lora_rank",
        "qk_rope_head_dim": "rope.dimension_count",
        "n_routed_experts": "expert_count",
        "n_shared_experts": "expert_shared_count",
        "n_group": "expert_group_count",
        "topk_group": "expert_group_used_count",
        "first_k_dense_replace": "leading_dense_block_count",
        "routed_scaling_factor": "expert_weights_scale",
        "norm_topk_prob": "expert_weights_norm",
    },
    "stablelm": {"use_parallel_residual": "use_parallel_residual"},
}
# What the files do not say and llama.cpp passes over, where transformers has a default.
_FIXED: Mapping[str, dict[str, Any]] = {
    "starcoder2": {"sliding_window": None},
    "qwen2moe": {"norm_topk_prob": False},
    "qwen3moe": {"norm_topk_prob": True},
    "olmoe": {"norm_topk_prob": False},
    "deepseek2": {
        "q_lora_rank": None,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 0,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": False,
    },
}
# Layers of those Gemmas whose queries are scaled by the hidden size's share of a head, and not by the head's size.
_SCALED_BY_SHARE = {"gemma2": 46, "gemma3": 62}
_TOKENS = {"bos_token_id": ("bos",), "eos_token_id": ("eos", "eot", "eom"), "pad_token_id": ("padding",)}


_GIVE_MODEL = "Give the GGUF file of the model that it belongs to"
# By general.type.
_OTHER_KINDS = {
    "adapter": ("a LoRA adapter", f"{_GIVE_MODEL}, into which llama.cpp's llama-export-lora merges it."),
    "imatrix": ("an importance matrix for llama-quantize", f"{_GIVE_MODEL}."),
    "mmproj": ("a projector of images or sound", f"{_GIVE_MODEL}: text alone is read."),
}


def find_architecture(file: str, metadata: Mapping[str, Any]) -> Architecture:
    """Raises ModelError naming an architecture that is not known, and the known ones, or what the file is in place of
    a model."""
    name = metadata.get("general.architecture")
    kind = metadata.get("general.type", "mmproj" if name == "clip" else None)
    if kind in _OTHER_KINDS:
        what, instead = _OTHER_KINDS[kind]
        raise ModelError(f"{file} is {what} ({kind}), not a model.", instead)
    found = next((row for row in ARCHITECTURES if row.name == name and row.describes(metadata)), None)
    if found is None:
        raise ModelError(f"{file}: architecture {name!r} is not supported.", f"Supported in GGUF: {', '.join(KNOWN)}.")
    return found


def hugging_face_config(
    file: str, metadata: Mapping[str, Any], architecture: Architecture, tensors: Mapping[str, GgufTensor]
) -> dict[str, Any]:
    """The config. Raises ModelError listing the keys of the metadata that are missing."""
    name, family = architecture.name, architecture.family
    embedding = tensors.get("token_embd.weight")
    epsilon = _epsilon_key(family)
    needed = [*_SIZES.values(), *([epsilon] if isinstance(family.norm_epsilon, str) else [])]
    absent = [f"{name}.{key}" for key in needed if f"{name}.{key}" not in metadata]
    if absent or embedding is None:
        listed = [*absent, *(["tensor token_embd.weight"] if embedding is None else [])]
        raise ModelError(f"{file} has no {', '.join(listed)}.", "Convert the model to GGUF again.")

    def value(key: str) -> Any:
        return _shortest(metadata.get(f"{name}.{key}"))

    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": embedding.shape[0],
        **{key: value(theirs) for key, theirs in (_SIZES | _OPTIONAL).items()},
        **_FIXED.get(name, {}),
        **{key: value(theirs) for key, theirs in _FURTHER.get(name, {}).items() if value(theirs) is not None},
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in tensors,
        "use_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "qkv_bias": "blk.0.attn_q.bias" in tensors,
        "dtype": _dtype(tensors),
    }
    if isinstance(family.norm_epsilon, str):
        config[family.norm_epsilon] = value(epsilon)
    if config["head_dim"] is None:
        # The family's own default would stand for what the file leaves out.
        config["head_dim"] = _share(config)
    if family.mixture is not None:
        config |= expert_sizes(name, metadata, tensors)
    if family.latent:
        config |= head_sizes(name, metadata, config)
    config |= rope_parameters(file, {key: value(key) for key in _rope_keys(name, metadata)}, config, tensors)
    if name in _SCALED_BY_SHARE:
        by_share = config["num_hidden_layers"] == _SCALED_BY_SHARE[name]
        config["query_pre_attn_scalar"] = _share(config) if by_share else config["head_dim"]
    return config | _token_ids(metadata)


def _epsilon_key(family: Family) -> str:
    return f"attention.{'layer_norm_epsilon' if family.norm == 'layer' else 'layer_norm_rms_epsilon'}"


def _share(config: Mapping[str, Any]) -> Any:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None


def _rope_keys(name: str, metadata: Mapping[str, Any]) -> list[str]:
    return [key.removeprefix(f"{name}.") for key in metadata if key.startswith(f"{name}.rope.")]


def _token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Any of several tokens may end an answer; one id stands for itself."""
    result: dict[str, Any] = {}
    for key, kinds in _TOKENS.items():
        found = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in kinds]
        ids = list(dict.fromkeys(number for number in found if number is not None))
        result |= {key: ids if len(ids) > 1 else ids[0]} if ids else {}
    return result


def _dtype(tensors: Mapping[str, GgufTensor]) -> str:
    """The model's type: that of its plain matrices, and bfloat16 where a matrix is quantized, whose numbers may be
    beyond float16."""
    kinds = {tensor.kind for tensor in tensors.values() if len(tensor.shape) > 1}
    if kinds == {"F32"}:
        return "float32"
    return "float16" if kinds <= {"F16", "F32"} else "bfloat16"


def _shortest(value: Any) -> Any:
    """A float32 as the decimal number that the config had: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value

"""Decoders whose attention and MLP may read the same residual stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.fused import qkv_by_head, qvk_by_device
from inflight.convert.families.names import FC_NAMES, Names, parts
from inflight.convert.families.rows.keys import stablelm_keys
from inflight.convert.families.rows.parallel_keys import (
    cohere2_keys,
    cohere_keys,
    falcon_config,
    falcon_keys,
    gpt_neox_config,
    gptj_config,
    phi_keys,
    plain_heads_keys,
)

_NEOX = "gpt_neox.layers.{layer}."
_NEOX_QKV = f"{_NEOX}attention.query_key_value"
_H = "transformer.h.{layer}."
_FALCON_QKV, _CODEGEN_QKV = f"{_H}self_attention.query_key_value", f"{_H}attn.qkv_proj"
_GPTJ_NAMES: Names = {
    "vocab_embedding": ("transformer.wte",),
    "input_layernorm": (f"{_H}ln_1",),
    "attention.qkv": (f"{_H}attn.q_proj", f"{_H}attn.k_proj", f"{_H}attn.v_proj"),
    "attention.dense": (f"{_H}attn.out_proj",),
    "mlp.fc": (f"{_H}mlp.fc_in",),
    "mlp.proj": (f"{_H}mlp.fc_out",),
    "ln_f": ("transformer.ln_f",),
    "lm_head": ("lm_head",),
}
# Masks that old versions of transformers saved.
_MASKS = ("*.attn.bias", "*.attn.masked_bias", "*.attn.causal_mask", "*.attention.bias", "*.attention.masked_bias")

_COHERE2_DEFAULTS: Mapping[str, Any] = {
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "tie_word_embeddings": True,
}
_GPT_NEOX_NAMES: Names = {
    "vocab_embedding": ("gpt_neox.embed_in",),
    "input_layernorm": (f"{_NEOX}input_layernorm",),
    "attention.qkv": parts(_NEOX_QKV, "q", "k", "v"),
    "attention.dense": (f"{_NEOX}attention.dense",),
    "post_layernorm": (f"{_NEOX}post_attention_layernorm",),
    "mlp.fc": (f"{_NEOX}mlp.dense_h_to_4h",),
    "mlp.proj": (f"{_NEOX}mlp.dense_4h_to_h",),
    "ln_f": ("gpt_neox.final_layer_norm",),
    "lm_head": ("lm_head",),
}
_GPT_NEOX_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "partial_rotary_factor": 0.25,
}
_FALCON_NAMES: Names = {
    "vocab_embedding": ("transformer.word_embeddings",),
    "input_layernorm": (f"{_H}input_layernorm",),
    "attention.qkv": parts(_FALCON_QKV, "q", "k", "v"),
    "attention.dense": (f"{_H}self_attention.dense",),
    "post_layernorm": (f"{_H}post_attention_layernorm",),
    "mlp.fc": (f"{_H}mlp.dense_h_to_4h",),
    "mlp.proj": (f"{_H}mlp.dense_4h_to_h",),
    "ln_f": ("transformer.ln_f",),
    "lm_head": ("lm_head",),
}

_FALCON_TENSORS: dict[str, Any] = {
    "fused": {_FALCON_QKV: qkv_by_head},
    "renamed": ((".ln_attn.", ".input_layernorm."), (".ln_mlp.", ".post_attention_layernorm.")),
    "ignored": ("*.rotary_emb.inv_freq",),
}

PARALLEL = (
    Family(
        architecture="StableLmForCausalLM",
        model_type="stablelm",
        qkv_bias="use_qkv_bias",
        keys=stablelm_keys,
        partial_rotary=True,
        norm="layer",
        norm_epsilon="layer_norm_eps",
        parallel="use_parallel_residual",
        defaults={"num_key_value_heads": 32, "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5},
    ),
    Family(
        architecture="CohereForCausalLM",
        model_type="cohere",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        interleaved_rope=True,
        norm="layer",
        norm_bias=False,
        norm_epsilon="layer_norm_eps",
        parallel=True,
        keys=cohere_keys,
        defaults={"layer_norm_eps": 1e-5, "rope_theta": 5e5, "logit_scale": 0.0625, "tie_word_embeddings": True},
    ),
    Family(
        architecture="Cohere2ForCausalLM",
        model_type="cohere2",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        sliding_window="listed",
        full_attention_every="sliding_window_pattern",
        rope_in_windows=True,
        interleaved_rope=True,
        norm="layer",
        norm_bias=False,
        norm_epsilon="layer_norm_eps",
        parallel=True,
        keys=cohere2_keys,
        defaults=_COHERE2_DEFAULTS,
    ),
    Family(
        architecture="PhiForCausalLM",
        model_type="phi",
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        head_bias=True,
        partial_rotary=True,
        norm="layer",
        norm_epsilon="layer_norm_eps",
        parallel=True,
        gated_mlp=False,
        keys=phi_keys,
        names={
            **FC_NAMES,
            "attention.dense": ("model.layers.{layer}.self_attn.dense",),
            "ln_f": ("model.final_layernorm",),
        },
        defaults={"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    ),
    Family(
        architecture="GPTNeoXForCausalLM",
        model_type="gpt_neox",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias=True,
        partial_rotary=True,
        norm="layer",
        norm_epsilon="layer_norm_eps",
        parallel="use_parallel_residual",
        own_mlp_norm=True,
        gated_mlp=False,
        decoder=gpt_neox_config,
        keys=plain_heads_keys,
        names=_GPT_NEOX_NAMES,
        fused={_NEOX_QKV: qkv_by_head},
        renamed=(("embed_out.", "lm_head."),),
        ignored=(*_MASKS, "*.rotary_emb.inv_freq"),
        defaults=_GPT_NEOX_DEFAULTS,
    ),
    Family(
        architecture="FalconForCausalLM",
        model_type="falcon",
        qkv_bias="bias",
        dense_bias="bias",
        mlp_bias="bias",
        activation="activation",
        norm="layer",
        norm_epsilon="layer_norm_epsilon",
        alibi="alibi",
        alibi_rounded=True,
        parallel="parallel_attn",
        gated_mlp=False,
        decoder=falcon_config,
        keys=falcon_keys,
        facts=lambda values: {"parallel": "two_norms"} if values.raw.get("two_norms") else {},
        names=_FALCON_NAMES,
        **_FALCON_TENSORS,
        defaults={"activation": "gelu", "layer_norm_epsilon": 1e-5, "parallel_attn": True, "tie_word_embeddings": True},
    ),
    Family(
        architecture="GPTJForCausalLM",
        model_type="gptj",
        mlp_bias=True,
        head_bias=True,
        activation="activation_function",
        interleaved_rope=True,
        partial_rotary=True,
        norm="layer",
        norm_epsilon="layer_norm_epsilon",
        parallel=True,
        gated_mlp=False,
        decoder=gptj_config,
        keys=plain_heads_keys,
        names=_GPTJ_NAMES,
        ignored=_MASKS,
        defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    ),
    Family(
        architecture="CodeGenForCausalLM",
        model_type="codegen",
        mlp_bias=True,
        head_bias=True,
        activation="activation_function",
        interleaved_rope=True,
        partial_rotary=True,
        norm="layer",
        norm_epsilon="layer_norm_epsilon",
        parallel=True,
        gated_mlp=False,
        decoder=gptj_config,
        keys=plain_heads_keys,
        names={**_GPTJ_NAMES, "attention.qkv": parts(_CODEGEN_QKV, "q", "k", "v")},
        fused={_CODEGEN_QKV: qvk_by_device},
        ignored=_MASKS,
        defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5},
    ),
)

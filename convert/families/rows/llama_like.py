"""Decoders of Llama's kind: a norm before attention and one before the MLP, rotary embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.fused import gate_up, qkv_in_turn
from inflight.convert.families.names import DECODER_NAMES, GATE_UP, GATE_UP_NAMES, STARCODER2_NAMES, parts
from inflight.convert.families.rows.keys import (
    exaone_config,
    granite_keys,
    hunyuan_config,
    internlm3_config,
    iquestcoder_keys,
    ministral3_config,
    ministral3_facts,
    own_minicpm_keys,
    phi3_config,
    smollm3_keys,
)

STARCODER2_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "use_bias": True,
    "norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
_QKV = "model.layers.{layer}.self_attn.qkv_proj"
_EXAONE_NAMES = (
    ("transformer.wte.", "model.embed_tokens."),
    (".attn.attention.out_proj.", ".self_attn.o_proj."),
    (".attn.attention.", ".self_attn."),
    (".ln_1.", ".input_layernorm."),
    (".ln_2.", ".post_attention_layernorm."),
    (".mlp.c_fc_0.", ".mlp.gate_proj."),
    (".mlp.c_fc_1.", ".mlp.up_proj."),
    (".mlp.c_proj.", ".mlp.down_proj."),
    ("transformer.ln_f.", "model.norm."),
    ("transformer.h.", "model.layers."),
)

_CWM_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "sliding_window": 8192,
    "rope_theta": 1e6,
    "rope_parameters": {
        "rope_theta": 1e6,
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}

LLAMA_LIKE = (
    Family(
        architecture="LlamaForCausalLM",
        model_type="llama",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    Family(
        architecture="MistralForCausalLM",
        model_type="mistral",
        sliding_window="always",
        defaults={"sliding_window": 4096, "num_key_value_heads": 8},
    ),
    Family(
        architecture="MinistralForCausalLM",
        model_type="ministral",
        sliding_window="listed",
        defaults={"sliding_window": 4096, "num_key_value_heads": 8},
    ),
    Family(
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        qkv_bias=True,
        sliding_window="switched",
        defaults={"sliding_window": 4096, "max_window_layers": 28, "num_key_value_heads": 32},
    ),
    Family(
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        sliding_window="switched",
        defaults={"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28, "num_key_value_heads": 32},
    ),
    Family(
        architecture="GraniteForCausalLM",
        model_type="granite",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        keys=granite_keys,
    ),
    Family(
        architecture="MiniCPMForCausalLM",
        model_type="minicpm",
        own_code=True,
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        keys=own_minicpm_keys,
        defaults={"tie_word_embeddings": True},
    ),
    Family(
        architecture="SmolLM3ForCausalLM",
        model_type="smollm3",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        keys=smollm3_keys,
        skips_rope=True,
        defaults={
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "no_rope_layer_interval": 4,
            "tie_word_embeddings": True,
        },
    ),
    Family(
        architecture="Starcoder2ForCausalLM",
        model_type="starcoder2",
        qkv_bias="use_bias",
        dense_bias="use_bias",
        mlp_bias="use_bias",
        sliding_window="always",
        norm="layer",
        norm_epsilon="norm_epsilon",
        gated_mlp=False,
        names=STARCODER2_NAMES,
        defaults=STARCODER2_DEFAULTS,
    ),
    Family(
        architecture="ExaoneForCausalLM",
        model_type="exaone",
        also=("LlamaForCausalLM",),
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        decoder=exaone_config,
        renamed=_EXAONE_NAMES,
        defaults={"num_key_value_heads": 8, "rope_theta": 5e5, "rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="InternLM3ForCausalLM",
        model_type="internlm3",
        also=("LlamaForCausalLM",),
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        decoder=internlm3_config,
        defaults={"num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="IQuestCoderForCausalLM",
        model_type="iquestcoder",
        also=("LlamaForCausalLM",),
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        keys=iquestcoder_keys,
        defaults={"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="Phi3ForCausalLM",
        model_type="phi3",
        sliding_window="always",
        partial_rotary=True,
        decoder=phi3_config,
        names={**GATE_UP_NAMES, "attention.qkv": parts(_QKV, "q", "k", "v")},
        fused={_QKV: qkv_in_turn, GATE_UP: gate_up},
        defaults={"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
    ),
    Family(
        architecture="SeedOssForCausalLM",
        model_type="seed_oss",
        qkv_bias="attention_bias",
        dense_bias="attention_out_bias",
        mlp_bias="mlp_bias",
        defaults={"attention_bias": True, "num_key_value_heads": 8, "head_dim": 128},
    ),
    Family(
        architecture="HunYuanDenseV1ForCausalLM",
        model_type="hunyuan_v1_dense",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_last=True,
        decoder=hunyuan_config,
        names={
            **DECODER_NAMES,
            "attention.q_layernorm": ("model.layers.{layer}.self_attn.query_layernorm",),
            "attention.k_layernorm": ("model.layers.{layer}.self_attn.key_layernorm",),
        },
        defaults={"rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="Ministral3ForCausalLM",
        model_type="ministral3",
        sliding_window="always",
        decoder=ministral3_config,
        facts=ministral3_facts,
        defaults={"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="CwmForCausalLM",
        model_type="cwm",
        mlp_bias="mlp_bias",
        sliding_window="listed",
        full_attention_every=4,
        full_attention_first=True,
        defaults=_CWM_DEFAULTS,
    ),
)

"""Decoders with norms after attention and after the MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.fused import gate_up
from inflight.convert.families.names import GATE_UP, GATE_UP_NAMES, SANDWICH_NAMES
from inflight.convert.families.rows.keys import hyperclovax_keys

_LAYER = "model.layers.{layer}."

_GLM4_DEFAULTS: Mapping[str, Any] = {
    "attention_bias": True,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "rms_norm_eps": 1.5625e-7,
    "partial_rotary_factor": 0.5,
}

POST_NORMS = (
    Family(
        architecture="Olmo2ForCausalLM",
        model_type="olmo2",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_width=True,
        post_norms=True,
        names=SANDWICH_NAMES,
        defaults={"rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="Olmo3ForCausalLM",
        model_type="olmo3",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_width=True,
        sliding_window="listed",
        full_attention_every=4,
        rope_by_layer_type=True,
        post_norms=True,
        names=SANDWICH_NAMES,
        defaults={"rms_norm_eps": 1e-5, "sliding_window": 4096, "rope_theta": 5e5, "rope_local_base_freq": 5e5},
    ),
    Family(
        architecture="Exaone4ForCausalLM",
        model_type="exaone4",
        qk_norm=True,
        sliding_window="listed",
        full_attention_every="sliding_window_pattern",
        rope_in_windows=True,
        post_norms=True,
        names=SANDWICH_NAMES,
        defaults={
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
        },
    ),
    Family(
        architecture="Glm4ForCausalLM",
        model_type="glm4",
        qkv_bias="attention_bias",
        interleaved_rope=True,
        partial_rotary=True,
        sandwich_norms=True,
        names={
            **GATE_UP_NAMES,
            "post_layernorm": (_LAYER + "post_self_attn_layernorm",),
            "pre_feedforward_layernorm": (_LAYER + "post_attention_layernorm",),
            "post_feedforward_layernorm": (_LAYER + "post_mlp_layernorm",),
        },
        fused={GATE_UP: gate_up},
        defaults=_GLM4_DEFAULTS,
    ),
    Family(
        architecture="HyperCLOVAXForCausalLM",
        model_type="hyperclovax",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        sandwich_norms=True,
        keys=hyperclovax_keys,
        names={
            **SANDWICH_NAMES,
            "post_layernorm": (_LAYER + "post_norm1",),
            "pre_feedforward_layernorm": (_LAYER + "post_attention_layernorm",),
            "post_feedforward_layernorm": (_LAYER + "post_norm2",),
        },
    ),
)

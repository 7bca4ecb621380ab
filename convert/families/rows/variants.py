"""Decoders of Llama's kind with another rotation, another activation or other norms."""

from __future__ import annotations

from inflight.convert.families.family import Family
from inflight.convert.families.fused import gate_up
from inflight.convert.families.names import GATE_UP, GATE_UP_NAMES, UNGATED_NAMES
from inflight.convert.families.rows.keys import olmo_facts, olmo_keys

VARIANTS = (
    Family(
        architecture="Ernie4_5ForCausalLM",
        model_type="ernie4_5",
        qkv_bias="use_bias",
        dense_bias="use_bias",
        mlp_bias="use_bias",
        interleaved_rope=True,
        defaults={
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "rope_theta": 5e5,
            "tie_word_embeddings": True,
        },
    ),
    Family(
        architecture="HeliumForCausalLM",
        model_type="helium",
        qkv_bias="attention_bias",
        mlp_bias="mlp_bias",
        interleaved_rope=True,
        defaults={"num_key_value_heads": 20, "head_dim": 128, "rms_norm_eps": 1e-8, "rope_theta": 1e5},
    ),
    Family(
        architecture="GlmForCausalLM",
        model_type="glm",
        qkv_bias="attention_bias",
        interleaved_rope=True,
        partial_rotary=True,
        names=GATE_UP_NAMES,
        fused={GATE_UP: gate_up},
        defaults={
            "attention_bias": True,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rms_norm_eps": 1.5625e-7,
            "partial_rotary_factor": 0.5,
        },
    ),
    Family(
        architecture="ArceeForCausalLM",
        model_type="arcee",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        gated_mlp=False,
        names=UNGATED_NAMES,
        defaults={"hidden_act": "relu2", "rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="NemotronForCausalLM",
        model_type="nemotron",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        partial_rotary=True,
        norm="layer",
        norm_epsilon="norm_eps",
        norm_offset=1.0,
        gated_mlp=False,
        names=UNGATED_NAMES,
        defaults={"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    ),
    Family(
        architecture="Jais2ForCausalLM",
        model_type="jais2",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        norm="layer",
        norm_epsilon="layer_norm_eps",
        gated_mlp=False,
        names=UNGATED_NAMES,
        defaults={"hidden_act": "relu2", "layer_norm_eps": 1e-5, "attention_bias": True, "mlp_bias": True},
    ),
    Family(
        architecture="OlmoForCausalLM",
        model_type="olmo",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        norm="layer",
        norm_bias=False,
        norm_weight=False,
        norm_epsilon=1e-5,
        keys=olmo_keys,
        facts=olmo_facts,
    ),
)

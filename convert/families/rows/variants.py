"""Decoders of Llama's kind with another rotation, another activation or other norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.fused import gate_up, qkv_by_head
from inflight.convert.families.names import FC_NAMES, GATE_UP, GATE_UP_NAMES, UNGATED_NAMES, Names, parts
from inflight.convert.families.rows.keys import nanochat_keys, olmo_facts, olmo_keys

_LAYER = "model.layers.{layer}."
_WQKV = f"{_LAYER}attention.wqkv"
_INTERNLM2_NAMES: Names = {
    "vocab_embedding": ("model.tok_embeddings",),
    "input_layernorm": (f"{_LAYER}attention_norm",),
    "attention.qkv": parts(_WQKV, "q", "k", "v"),
    "attention.dense": (f"{_LAYER}attention.wo",),
    "post_layernorm": (f"{_LAYER}ffn_norm",),
    "mlp.fc": (f"{_LAYER}feed_forward.w1",),
    "mlp.gate": (f"{_LAYER}feed_forward.w3",),
    "mlp.proj": (f"{_LAYER}feed_forward.w2",),
    "ln_f": ("model.norm",),
    "lm_head": ("output",),
}
# The four numbers of its activation, in the order of the checkpoint.
_XIELU = ("alpha_p", "alpha_n", "beta", "eps")
_APERTUS_NAMES: Names = {
    **UNGATED_NAMES,
    "input_layernorm": (f"{_LAYER}attention_layernorm",),
    "post_layernorm": (f"{_LAYER}feedforward_layernorm",),
    "mlp.act": tuple(f"{_LAYER}mlp.act_fn.{name}" for name in _XIELU),
}
_APERTUS_ROPE: Mapping[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

VARIANTS = (
    Family(
        architecture="InternLM2ForCausalLM",
        model_type="internlm2",
        own_code=True,
        qkv_bias="bias",
        dense_bias="bias",
        names=_INTERNLM2_NAMES,
        fused={_WQKV: qkv_by_head},
        ignored=("*.rotary_emb.inv_freq",),
        tied="output.weight",
        defaults={"bias": True},
    ),
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
        architecture="ApertusForCausalLM",
        model_type="apertus",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        gated_mlp=False,
        names=_APERTUS_NAMES,
        renamed=tuple((f".act_fn.{name}", f".act_fn.{name}.weight") for name in _XIELU),
        defaults={"hidden_act": "xielu", "rms_norm_eps": 1e-5, "rope_parameters": _APERTUS_ROPE},
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
        architecture="NanoChatForCausalLM",
        model_type="nanochat",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_last=True,
        qk_norm_bare=True,
        backward_rope=True,
        norm_weight=False,
        embedding_norm=True,
        gated_mlp=False,
        keys=nanochat_keys,
        names=FC_NAMES,
        defaults={"hidden_act": "relu2", "final_logit_softcapping": 15.0},
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

"""The encoder of T5 (Raffel et al., 2020), whose positions are numbers for distances alone."""

from __future__ import annotations

from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.names import Names
from inflight.convert.families.rows.keys import Raw, under_names

_BLOCK = "encoder.block.{layer}."
_ATTENTION, _MLP = f"{_BLOCK}layer.0.", f"{_BLOCK}layer.1."
_NAMES: Names = {
    "vocab_embedding": ("shared",),
    # The first block has those of all.
    "relative_bias": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias",),
    "input_layernorm": (f"{_ATTENTION}layer_norm",),
    "attention.qkv": tuple(f"{_ATTENTION}SelfAttention.{each}" for each in "qkv"),
    "attention.dense": (f"{_ATTENTION}SelfAttention.o",),
    "post_layernorm": (f"{_MLP}layer_norm",),
    "mlp.fc": (f"{_MLP}DenseReluDense.wi",),
    "mlp.proj": (f"{_MLP}DenseReluDense.wo",),
    "ln_f": ("encoder.final_layer_norm",),
}


def t5_config(raw: Raw) -> Raw:
    """Any length is as good to it; n_positions says what it was trained with."""
    names = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
        "intermediate_size": "d_ff",
        "hidden_act": "feed_forward_proj",
        "max_position_embeddings": "n_positions",
    }
    return {**under_names(raw, **names), "num_key_value_heads": None}


def t5_keys(values: ConfigValues) -> dict[str, Any]:
    """Scores are products as they are."""
    values.refuse("is_decoder", "the encoder is read")
    return {"query_pre_attn_scalar": 1.0}


def t5_facts(values: ConfigValues) -> dict[str, Any]:
    return {
        "relative_buckets": values.count("relative_attention_num_buckets"),
        "furthest_bucket": values.count("relative_attention_max_distance"),
    }


T5 = Family(
    architecture="T5EncoderModel",
    model_type="t5",
    distances=True,
    gated_mlp=False,
    encoder=True,
    norm_epsilon="layer_norm_epsilon",
    decoder=t5_config,
    keys=t5_keys,
    facts=t5_facts,
    names=_NAMES,
    ignored=("encoder.embed_tokens.weight",),
    defaults={
        "vocab_size": 32128,
        "hidden_size": 512,
        "head_dim": 64,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "hidden_act": "relu",
        "max_position_embeddings": 512,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
)

"""The encoders of T5 (Raffel et al., 2020), mT5 (Xue et al., 2021) and UMT5 (Chung et al., 2023), whose positions are
numbers for distances alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from inflight.convert.families.config_values import ConfigValues, names_of
from inflight.convert.families.family import Family
from inflight.convert.families.names import Names
from inflight.convert.families.rows.keys import Raw, under_names

_BLOCK = "encoder.block.{layer}."
_ATTENTION, _MLP = f"{_BLOCK}layer.0.", f"{_BLOCK}layer.1."
_NAMES: Names = {
    "vocab_embedding": ("shared",),
    "input_layernorm": (f"{_ATTENTION}layer_norm",),
    "attention.qkv": tuple(f"{_ATTENTION}SelfAttention.{each}" for each in "qkv"),
    "attention.dense": (f"{_ATTENTION}SelfAttention.o",),
    "post_layernorm": (f"{_MLP}layer_norm",),
    "mlp.fc": (f"{_MLP}DenseReluDense.wi",),
    "mlp.gate": (f"{_MLP}DenseReluDense.wi_1",),
    "mlp.proj": (f"{_MLP}DenseReluDense.wo",),
    "ln_f": ("encoder.final_layer_norm",),
}


# The first block has those of all.
_OF_ALL: Names = {"relative_bias": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias",)}
_OF_EACH: Names = {"attention": (f"{_ATTENTION}SelfAttention",)}
# What is activated has another name where something multiplies it.
_ACTIVATED = (".wi_0.", ".wi.")
_GATED, _GATE = "gated-", "feed_forward_proj"


def t5_config(raw: Raw, usual: str) -> Raw:
    """Any length is as good to it; n_positions says what it was trained with. `usual`: what feed_forward_proj is where
    the config has none."""
    named = raw.get(_GATE, usual)
    activated = named.removeprefix(_GATED) if isinstance(named, str) else named
    # Of all names this one alone means another function than it says.
    activated = "gelu_new" if named == f"{_GATED}gelu" else activated
    raw = {**raw, _GATE: named, "hidden_act": activated, **names_of(raw, hidden_act=_GATE)}
    names = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
        "intermediate_size": "d_ff",
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
        "gated_mlp": True if str(values.raw.get(_GATE)).startswith(_GATED) else None,
    }


def umt5_facts(values: ConfigValues) -> dict[str, Any]:
    return {**t5_facts(values), "own_relative_bias": True}


_T5_DEFAULTS = {
    "vocab_size": 32128,
    "hidden_size": 512,
    "head_dim": 64,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
_MULTILINGUAL = {"vocab_size": 250112, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}


_t5_encoder = partial(
    Family,
    distances=True,
    gated_mlp=_GATE,
    encoder=True,
    norm_epsilon="layer_norm_epsilon",
    decoder=partial(t5_config, usual="gated-gelu"),
    keys=t5_keys,
    facts=t5_facts,
    names={**_NAMES, **_OF_ALL},
    renamed=(_ACTIVATED,),
    ignored=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    left_out=("decoder.*",),
    defaults={**_T5_DEFAULTS, **_MULTILINGUAL},
)
T5_LIKE = (
    _t5_encoder("T5EncoderModel", "t5", decoder=partial(t5_config, usual="relu"), defaults=_T5_DEFAULTS),
    _t5_encoder("MT5EncoderModel", "mt5"),
    _t5_encoder(
        "UMT5EncoderModel",
        "umt5",
        facts=umt5_facts,
        names={**_NAMES, **_OF_EACH},
        renamed=(_ACTIVATED, (".SelfAttention.relative_attention_bias.weight", ".SelfAttention.relative_bias")),
    ),
)

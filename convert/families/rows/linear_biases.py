"""Decoders whose attention has linear biases in place of positions (Press et al., 2022): BLOOM and MPT."""

from __future__ import annotations

from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.fused import qkv_by_head, qkv_in_turn
from inflight.convert.families.names import Names, parts
from inflight.convert.families.rows.keys import Raw, head_share, refuse_other_head_size, under_names
from inflight.convert.families.rows.parallel_keys import wide_mlp

_H, _B = "transformer.h.{layer}.", "transformer.blocks.{layer}."
_BLOOM_QKV, _MPT_QKV = f"{_H}self_attention.query_key_value", f"{_B}attn.Wqkv"
_BLOOM_NAMES: Names = {
    "vocab_embedding": ("transformer.word_embeddings",),
    "ln_embed": ("transformer.word_embeddings_layernorm",),
    "input_layernorm": (f"{_H}input_layernorm",),
    "attention.qkv": parts(_BLOOM_QKV, "q", "k", "v"),
    "attention.dense": (f"{_H}self_attention.dense",),
    "post_layernorm": (f"{_H}post_attention_layernorm",),
    "mlp.fc": (f"{_H}mlp.dense_h_to_4h",),
    "mlp.proj": (f"{_H}mlp.dense_4h_to_h",),
    "ln_f": ("transformer.ln_f",),
    "lm_head": ("lm_head",),
}
_MPT_NAMES: Names = {
    "vocab_embedding": ("transformer.wte",),
    "input_layernorm": (f"{_B}norm_1",),
    "attention.qkv": parts(_MPT_QKV, "q", "k", "v"),
    "attention.dense": (f"{_B}attn.out_proj",),
    "post_layernorm": (f"{_B}norm_2",),
    "mlp.fc": (f"{_B}ffn.up_proj",),
    "mlp.proj": (f"{_B}ffn.down_proj",),
    "ln_f": ("transformer.norm_f",),
    "lm_head": ("lm_head",),
}
# Of MPT's attn_config -> what transformers makes of it whatever it says.
_MPT_ATTENTION = {
    "attn_type": "multihead_attention",
    "prefix_lm": False,
    "qk_ln": False,
    "attn_uses_sequence_id": False,
    "alibi": True,
}
_MPT_FIXED = {"expansion_ratio": 4, "no_bias": True, "norm_type": "low_precision_layernorm", "logit_scale": None}


def bloom_config(raw: Raw) -> Raw:
    """Activation and widths follow from the class; so does every length, up to what it was trained with."""
    names = {"hidden_size": "n_embed", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    named = wide_mlp({**under_names(raw, **names), "intermediate_size": None})
    return {
        **named,
        "num_key_value_heads": None,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": raw.get("seq_length") or 2048,
    }


def bloom_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other_head_size(values)
    values.refuse("apply_residual_connection_post_layernorm", "the residual stream is that before norms")
    return {}


def mpt_config(raw: Raw) -> Raw:
    names = {"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
    named = wide_mlp({**under_names(raw, **names), "intermediate_size": None})
    return {
        **named,
        "num_key_value_heads": None,
        "hidden_act": "gelu",
        "max_position_embeddings": raw.get("max_seq_len") or 2048,
    }


def mpt_keys(values: ConfigValues) -> dict[str, Any]:
    """What transformers reads and does not follow is refused."""
    refuse_other_head_size(values)
    attention = _attention_config(values)
    told = [*((f"attn_config.{key}", attention.get(key, known), known) for key, known in _MPT_ATTENTION.items())]
    told += [(key, values.raw.get(key, known), known) for key, known in _MPT_FIXED.items()]
    for key, value, known in told:
        if value != known:
            values.problems.append(f"{key} {value!r} is not supported: transformers has {known!r}")
    scale, size = ConfigValues(attention, {}).optional_number("softmax_scale"), head_share(values.raw)
    return {} if scale is None or size is None else {"attention_multiplier": scale * size**0.5}


def mpt_facts(values: ConfigValues) -> dict[str, Any]:
    """transformers reads alibi_bias_max and takes 8 all the same."""
    inside = ConfigValues(_attention_config(values), {})
    clip, steepest = inside.optional_number("clip_qkv"), inside.number("alibi_bias_max", 8.0)
    inside.optional_number("softmax_scale")
    values.problems.extend(inside.problems)
    if steepest != 8:
        values.problems.append(f"attn_config.alibi_bias_max {steepest:g} is not supported: transformers takes 8")
    return {"clip_qkv": clip}


def _attention_config(values: ConfigValues) -> dict[str, Any]:
    found = values.raw.get("attn_config") or {}
    if isinstance(found, dict):
        return found
    values.problems.append(f"attn_config must be an object, not {found!r}")
    return {}


_BLOOM_RENAMED = tuple(
    (f"{name}.", f"transformer.{name}.") for name in ("h", "word_embeddings", "word_embeddings_layernorm", "ln_f")
)

LINEAR_BIASES = (
    Family(
        architecture="BloomForCausalLM",
        model_type="bloom",
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        alibi=True,
        norm="layer",
        norm_epsilon="layer_norm_epsilon",
        embedding_norm=True,
        gated_mlp=False,
        decoder=bloom_config,
        keys=bloom_keys,
        names=_BLOOM_NAMES,
        fused={_BLOOM_QKV: qkv_by_head},
        renamed=_BLOOM_RENAMED,
        defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
    Family(
        architecture="MptForCausalLM",
        also=("MPTForCausalLM",),
        model_type="mpt",
        alibi=True,
        norm="layer",
        norm_bias=False,
        norm_epsilon="layer_norm_epsilon",
        gated_mlp=False,
        decoder=mpt_config,
        keys=mpt_keys,
        facts=mpt_facts,
        names=_MPT_NAMES,
        fused={_MPT_QKV: qkv_in_turn},
        defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
)

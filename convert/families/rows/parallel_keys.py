"""What the configs of parallel decoders have beside the common keys, and what those keys are called there."""

from __future__ import annotations

from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.rows.keys import Raw, refuse_other_head_size, under_names

_PER_HEAD = "norms of queries and keys that differ from head to head are not known"


def plain_heads_keys(values: ConfigValues) -> dict[str, Any]:
    """As many heads of keys as of queries, which make up the hidden size."""
    refuse_other_head_size(values)
    return {}


def cohere_keys(values: ConfigValues) -> dict[str, Any]:
    values.refuse("use_qk_norm", _PER_HEAD)
    return _logit_scale(values)


def cohere2_keys(values: ConfigValues) -> dict[str, Any]:
    """Layers turn where they have a window."""
    refuse_other_head_size(values)
    if values.raw.get("sliding_window") is None:
        values.problems.append("sliding_window null is not supported: layers without a window have no rotary embedding")
    return _logit_scale(values)


def _logit_scale(values: ConfigValues) -> dict[str, Any]:
    return {"output_multiplier_scale": values.number("logit_scale", 1.0)}


def phi_keys(values: ConfigValues) -> dict[str, Any]:
    values.refuse("qk_layernorm", "norms of queries and keys with a bias are not known")
    return {}


def gpt_neox_config(raw: Raw) -> Raw:
    """Its rotary keys have names of their own."""
    beside = under_names(raw, rope_theta="rotary_emb_base", partial_rotary_factor="rotary_pct")
    return {**beside, "num_key_value_heads": None}


def gptj_config(raw: Raw) -> Raw:
    """The names of GPT-2, and how many elements of a head turn, as a number."""
    named = gpt2_config(raw)
    hidden, heads, turned = named.get("hidden_size"), named.get("num_attention_heads"), raw.get("rotary_dim", 64)
    if not (isinstance(hidden, int) and isinstance(heads, int) and isinstance(turned, int) and heads and hidden):
        return {**named, "rope_theta": 10000.0}
    return {**named, "rope_theta": 10000.0, "partial_rotary_factor": turned / (hidden // heads)}


def gpt2_config(raw: Raw) -> Raw:
    """The names of GPT-2's config; an MLP is four times as wide as the residual stream where nothing else is said."""
    sizes = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions", "intermediate_size": "n_inner"}
    named = under_names(raw, **sizes, num_attention_heads="n_head", num_hidden_layers="n_layer")
    return {**wide_mlp(named), "num_key_value_heads": None}


def wide_mlp(raw: Raw) -> Raw:
    """The config with an intermediate_size of four times the hidden size where it has none."""
    hidden = raw.get("hidden_size")
    if raw.get("intermediate_size") is not None or not isinstance(hidden, int):
        return raw
    return {**raw, "intermediate_size": 4 * hidden}


def falcon_config(raw: Raw) -> Raw:
    """Its key-value heads, by either of two switches, and the names of its first configs."""
    names = {"hidden_size": "n_embed", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    named = wide_mlp(under_names(under_names(raw, **names), intermediate_size="ffn_hidden_size"))
    newer, shared = raw.get("new_decoder_architecture"), raw.get("multi_query", True)
    heads = raw.get("num_kv_heads") if newer else 1 if shared else None
    parallel = bool(newer or raw.get("parallel_attn", True))
    norms = raw.get("num_ln_in_parallel_attn")
    two = bool(newer) and norms in (None, 2)
    return {**named, "num_key_value_heads": heads, "parallel_attn": parallel, "two_norms": two}


def falcon_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other_head_size(values)
    if values.raw.get("new_decoder_architecture") and values.raw.get("parallel_attn") is False:
        values.problems.append("new_decoder_architecture with parallel_attn false is not supported")
    return {}

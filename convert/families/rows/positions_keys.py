"""What the configs of decoders with learned positions have beside the common keys."""

from __future__ import annotations

import math
from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.rows.keys import Raw, head_share, refuse_other_head_size, under_names
from inflight.convert.families.rows.parallel_keys import gpt2_config, wide_mlp


def gpt2_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other_head_size(values)
    values.refuse("scale_attn_by_inverse_layer_idx", "attention has one scale in all layers")
    values.refuse("add_cross_attention", "there is no encoder")
    return {} if values.raw.get("scale_attn_weights", True) else _unscaled(values)


def bigcode_config(raw: Raw) -> Raw:
    return {**gpt2_config(raw), "num_key_value_heads": 1 if raw.get("multi_query", True) else None}


def gpt_neo_config(raw: Raw) -> Raw:
    """Its kinds of layers are pairs of a pattern and how often it repeats; a local one has a window."""
    named = wide_mlp(under_names(raw, num_attention_heads="num_heads", num_hidden_layers="num_layers"))
    kinds = {"global": "full_attention", "local": "sliding_attention"}
    listed: Any
    try:
        pairs = raw.get("attention_types") or [[["global", "local"], 12]]
        listed = [kinds.get(kind, kind) for pattern, times in pairs for _ in range(times) for kind in pattern]
    except (TypeError, ValueError):
        listed = raw.get("attention_types")
    window = raw.get("window_size", 256)
    return {**named, "layer_types": listed, "sliding_window": window, "num_key_value_heads": None}


def gpt_neo_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other_head_size(values)
    return _unscaled(values)


def _unscaled(values: ConfigValues) -> dict[str, Any]:
    """The format has the scale of queries relative to the usual one."""
    size = head_share(values.raw)
    return {"attention_multiplier": math.sqrt(size) if size else 1.0}


def opt_config(raw: Raw) -> Raw:
    return {**under_names(raw, intermediate_size="ffn_dim"), "num_key_value_heads": None}


def opt_keys(values: ConfigValues) -> dict[str, Any]:
    """The smallest models but one; its variants are refused by their keys."""
    refuse_other_head_size(values)
    values.refuse("_remove_final_layer_norm", "the last norm is there in all models that are read")
    width, hidden = values.raw.get("word_embed_proj_dim"), values.raw.get("hidden_size")
    if width not in (None, hidden):
        values.problems.append(f"word_embed_proj_dim {width!r} is not supported: embeddings are as wide as the layers")
    for key in ("do_layer_norm_before", "layer_norm_elementwise_affine"):
        if values.raw.get(key, True) is not True:
            values.problems.append(f"{key} {values.raw[key]!r} is not supported: norms come first and have weights")
    return {}


def biogpt_config(raw: Raw) -> Raw:
    return {**raw, "num_key_value_heads": None}


def biogpt_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other_head_size(values)
    hidden = values.raw.get("hidden_size")
    scale = math.sqrt(hidden) if values.flag("scale_embedding") and isinstance(hidden, int) and hidden > 0 else None
    return {"embedding_multiplier": scale}

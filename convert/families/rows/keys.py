"""What the configs of some families have beside the common keys, and what those keys are called there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.rope import QueryScale
from inflight.convert.families.config_values import ConfigValues, names_of

Raw = Mapping[str, Any]


def granite_keys(values: ConfigValues) -> dict[str, Any]:
    """Granite's four scales; the format has that of queries relative to the usual one, and that of logits inverted."""
    size = values.raw.get("head_dim") or head_share(values.raw)
    root = math.sqrt(size) if isinstance(size, int) and size > 0 else 1.0
    return {
        "embedding_multiplier": values.number("embedding_multiplier", 1.0),
        "attention_multiplier": _finite(
            values, "attention_multiplier", values.number("attention_multiplier", 1.0) * root
        ),
        "residual_multiplier": values.number("residual_multiplier", 1.0),
        "output_multiplier_scale": _finite(values, "logits_scaling", 1.0 / values.number("logits_scaling", 1.0)),
    }


def minicpm_keys(values: ConfigValues) -> dict[str, Any]:
    """Scales of the embedding, of what layers add by their number, and of the last hidden states by their size."""
    values.refuse("sparse_config", "attention to blocks that an index chooses is not there")
    values.refuse("num_experts", "its mixture is not read")
    width, layers = (_size(values.raw, key) for key in ("hidden_size", "num_hidden_layers"))
    root = math.sqrt(layers)
    return {
        "embedding_multiplier": values.number("scale_emb", 1.0),
        "residual_multiplier": _finite(values, "scale_depth", values.number("scale_depth", root) / root),
        "output_multiplier_scale": _finite(values, "dim_model_base", values.number("dim_model_base", width) / width),
    }


def _size(raw: Raw, key: str) -> int:
    """1 where it is no count, which reading it says."""
    size = raw.get(key)
    return size if isinstance(size, int) and size > 0 else 1


def own_minicpm_keys(values: ConfigValues) -> dict[str, Any]:
    """Of models with code of their own, whose configs say all scales."""
    for key in ("scale_emb", "scale_depth", "dim_model_base"):
        if values.raw.get(key) is None:
            values.problems.append(f"config.json has no {key}")
    return minicpm_keys(values)


def smollm3_keys(values: ConfigValues) -> dict[str, Any]:
    """Windows, which no published model has, would follow the layers without rotary embedding."""
    values.refuse("use_sliding_window", "windows of this family are not read")
    return {}


def stablelm_keys(values: ConfigValues) -> dict[str, Any]:
    """A variant that computes otherwise is refused, and so is a head size that transformers does not use."""
    values.refuse("qk_layernorm", "norms of queries and keys that differ from head to head are not known")
    refuse_other_head_size(values)
    return {}


def head_share(raw: Raw) -> int | None:
    """hidden_size / num_attention_heads; None where they are no counts, which reading them says."""
    hidden, heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    return hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads > 0 else None


def _finite(values: ConfigValues, key: str, result: float) -> float:
    """What was computed from the value of `key`, unless it is beyond what floats hold."""
    if 0 < result < math.inf:
        return result
    values.problems.append(f"{values.named(key)} {values.raw[key]!r} is out of range")
    return 1.0


def phi3_config(raw: Raw) -> Raw:
    """What transformers calls longrope went by two other names before."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in ("su", "yarn"):
        return raw
    renamed = {key: value for key, value in rope.items() if key not in ("type", "rope_type")}
    return {**raw, "rope_scaling": {**renamed, "rope_type": "longrope"}}


def exaone_config(raw: Raw) -> Raw:
    """The names of its own config, which transformers reads as Llama's."""
    return under_names(
        raw, num_hidden_layers="num_layers", rms_norm_eps="layer_norm_epsilon", hidden_act="activation_function"
    )


def internlm3_config(raw: Raw) -> Raw:
    return under_names(raw, attention_bias="qkv_bias", mlp_bias="bias")


def iquestcoder_keys(values: ConfigValues) -> dict[str, Any]:
    """What transformers refuses as well."""
    values.refuse("clip_qkv", "transformers does not apply it in this family")
    values.refuse("use_sliding_window", "transformers does not apply it in this family")
    return {}


def hunyuan_config(raw: Raw) -> Raw:
    """Frequencies that are called dynamic and have an `alpha` are fixed ones of a greater base."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) != "dynamic" or not rope.get("alpha"):
        return raw
    theta, alpha = rope.get("rope_theta", raw.get("rope_theta", 10000.0)), rope["alpha"]
    size: Any = raw.get("head_dim") or head_share(raw)
    if not all(isinstance(number, int | float) and number > 0 for number in (theta, alpha, size)) or size <= 2:
        return raw
    base = theta * alpha ** (size / (size - 2))
    return {**raw, "rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": base}}


_MINISTRAL3_ROPE: Raw = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def ministral3_config(raw: Raw) -> Raw:
    """The rotary parameters hold what scales the queries, which is kept beside them."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or _MINISTRAL3_ROPE
    if not isinstance(rope, dict):
        return raw
    beta = rope.get("llama_4_scaling_beta")
    others = {
        key: value for key, value in rope.items() if key not in ("llama_4_scaling_beta", "max_position_embeddings")
    }
    others.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    return {**raw, "rope_scaling": None, "rope_parameters": others, "llama_4_scaling_beta": beta}


def ministral3_facts(values: ConfigValues) -> dict[str, Any]:
    """Queries are scaled by 1 up to the original length, and by more behind it."""
    factor, rope = values.optional_number("llama_4_scaling_beta"), values.raw.get("rope_parameters")
    if factor is None or not isinstance(rope, dict):
        return {}
    inside = ConfigValues(rope, {})
    length = inside.count("original_max_position_embeddings")
    values.problems.extend(inside.problems)
    return {"query_scale": QueryScale(factor=factor, length=length)}


def nanochat_keys(values: ConfigValues) -> dict[str, Any]:
    return {"final_logit_softcapping": values.optional_number("final_logit_softcapping")}


def olmo_keys(values: ConfigValues) -> dict[str, Any]:
    """The size of its heads follows from the others."""
    refuse_other_head_size(values)
    return {}


def olmo_facts(values: ConfigValues) -> dict[str, Any]:
    return {"clip_qkv": values.optional_number("clip_qkv")}


def hyperclovax_keys(values: ConfigValues) -> dict[str, Any]:
    """Granite's scales; logits are multiplied where Granite divides them, and attention has its usual scale where none
    is given."""
    if not values.raw.get("use_post_norm", True):
        values.problems.append("use_post_norm false is not supported: there are norms after attention and MLP")
    size = values.raw.get("head_dim") or head_share(values.raw)
    root = math.sqrt(size) if isinstance(size, int) and size > 0 else 1.0
    return {
        "embedding_multiplier": values.number("embedding_multiplier", 1.0),
        "attention_multiplier": _finite(
            values, "attention_multiplier", values.number("attention_multiplier", 1.0 / root) * root
        ),
        "residual_multiplier": values.number("residual_multiplier", 1.0),
        "output_multiplier_scale": values.number("logits_scaling", 1.0),
        "inter_layernorms": True,
    }


def under_names(raw: Raw, **names: str) -> Raw:
    """The config with values of other keys under those that the columns read, where they are not there already."""
    used = {ours: theirs for ours, theirs in names.items() if theirs in raw and ours not in raw}
    return {**{ours: raw[theirs] for ours, theirs in used.items()}, **raw, **names_of(raw, **used)}


def refuse_other_head_size(values: ConfigValues) -> None:
    """transformers takes hidden_size / heads here, whatever head_dim says."""
    size, share = values.raw.get("head_dim"), head_share(values.raw)
    if size is not None and share is not None and size != share:
        why = "transformers takes hidden_size / heads here"
        values.problems.append(f"{values.named('head_dim')} {size!r} is not supported: {why}")

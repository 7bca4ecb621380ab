"""What the configs of further mixtures have beside the common keys, and what transformers assumes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.config import MAX_LAYERS
from inflight.convert.checkpoint.moe_facts import MoeFacts
from inflight.convert.families.config_values import ConfigValues, names_of
from inflight.convert.families.mixture_keys import (
    LEAST_SUM,
    dense_first_keys,
    dense_listed_keys,
    groups,
    routed_keys,
    softmax_keys,
    uniform,
)
from inflight.convert.families.rows.keys import Raw, hunyuan_config, under_names


def dots_config(raw: Raw) -> Raw:
    """Layers from max_window_layers on have the window wherever there is one."""
    return {**raw, "use_sliding_window": True}


def solar_config(raw: Raw) -> Raw:
    """Every layer has experts, so that its config names no other width."""
    return {**raw, "intermediate_size": raw.get("moe_intermediate_size", 1280)}


def solar_keys(values: ConfigValues) -> dict[str, Any]:
    return routed_keys(values, MoeFacts(biased_scores="sigmoid", least_sum=LEAST_SUM, num_groups=groups(values)), ())


def exaone_moe_config(raw: Raw) -> Raw:
    return under_names(raw, n_routed_experts="num_experts", n_shared_experts="num_shared_experts")


def exaone_moe_keys(values: ConfigValues) -> dict[str, Any]:
    moe = MoeFacts(biased_scores="sigmoid", least_sum=LEAST_SUM, num_groups=groups(values))
    listed = values.raw.get("mlp_layer_types") is not None
    return (dense_listed_keys if listed else dense_first_keys)(values, moe)


def mellum_config(raw: Raw) -> Raw:
    """Experts are in all layers unless the config says otherwise."""
    layers, types = raw.get("num_hidden_layers"), raw.get("mlp_layer_types")
    if types is None and isinstance(layers, int):
        types = ["sparse"] * min(max(layers, 0), MAX_LAYERS)
    named = under_names(raw, n_routed_experts="num_experts" if "num_experts" in raw else "num_local_experts")
    return {**named, "mlp_layer_types": types}


def mellum_keys(values: ConfigValues) -> dict[str, Any]:
    return dense_listed_keys(values, MoeFacts(normalization_mode=int(values.flag("norm_topk_prob"))))


def hy_config(raw: Raw) -> Raw:
    names = {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}
    return under_names(raw, **names, routed_scaling_factor="router_scaling_factor")


def hy_keys(values: ConfigValues) -> dict[str, Any]:
    values.refuse("mlp_bias", "biases of products are not read")
    return dense_listed_keys(values, MoeFacts(biased_scores="sigmoid", least_sum=LEAST_SUM))


def minimax_config(raw: Raw) -> Raw:
    """Published models say how much of a head turns by a number of elements."""
    turning, size = raw.get("rotary_dim"), raw.get("head_dim", 128)
    if not isinstance(turning, int) or not isinstance(size, int) or size < 1 or "partial_rotary_factor" in raw:
        return raw
    return {**raw, "partial_rotary_factor": turning / size}


def hunyuan_moe_config(raw: Raw) -> Raw:
    """Numbers may be lists of one for each layer."""
    numbers = {"num_experts": raw.get("num_experts", 1), "num_experts_per_tok": raw.get("moe_topk", 1)}
    return {
        **hunyuan_config(raw),
        **{key: uniform(number) for key, number in numbers.items()},
        "num_local_experts": None,
        **names_of(raw, num_experts_per_tok="moe_topk"),
    }


def hunyuan_moe_keys(values: ConfigValues) -> dict[str, Any]:
    values.refuse("use_cla", "every layer has keys and values of its own")
    keys = softmax_keys(values, renormalized=True)
    return {**keys, "moe_shared_expert_intermediate_size": values.count("intermediate_size")}


DOTS_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 32,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 0,
    "sliding_window": 4096,
    "max_window_layers": 62,
}
SOLAR_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "moe_intermediate_size": 1280,
    "num_experts_per_tok": 8,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
}
EXAONE_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 1024,
    "n_routed_experts": 64,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
MINIMAX_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_theta": 5e6,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
}
HY_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 11158840.0,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 192,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.826,
}
MELLUM_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 128,
    "sliding_window": 1024,
    "rope_theta": 5e5,
    "rope_local_base_freq": 1e4,
    "moe_intermediate_size": 896,
    "n_routed_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
}

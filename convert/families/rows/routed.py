"""Mixtures of experts whose parts other rows have already: attention of one, a router of another."""

from __future__ import annotations

from typing import Any

from inflight.convert.checkpoint.config import MAX_LAYERS
from inflight.convert.checkpoint.moe_facts import MoeFacts
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.mixture_keys import (
    LEAST_SUM,
    dense_first_keys,
    dense_listed_keys,
    glm_keys,
    groups,
    minimax_keys,
    routed_keys,
    softmax_keys,
    uniform,
)
from inflight.convert.families.mixtures import MIXTRAL_EXPERTS, QWEN_EXPERTS, Mixture, shared_expert
from inflight.convert.families.names import DECODER_NAMES, ROTARY_TABLES, SANDWICH_NAMES
from inflight.convert.families.rows.keys import Raw, hunyuan_config, under_names

_SHARED = {**DECODER_NAMES, **QWEN_EXPERTS.modules("mlp.gate"), **shared_expert("mlp.shared_experts")}
_LAYER = "model.layers.{layer}."
_CHOICE = "e_score_correction_bias"


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
    }


def hunyuan_moe_keys(values: ConfigValues) -> dict[str, Any]:
    values.refuse("use_cla", "every layer has keys and values of its own")
    keys = softmax_keys(values, renormalized=True)
    return {**keys, "moe_shared_expert_intermediate_size": values.count("intermediate_size")}


ROUTED = (
    Family(
        architecture="Dots1ForCausalLM",
        model_type="dots1",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        sliding_window="switched",
        decoder=dots_config,
        keys=glm_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True),
        names=_SHARED,
        defaults={
            "num_key_value_heads": 32,
            "moe_intermediate_size": 1408,
            "first_k_dense_replace": 0,
            "sliding_window": 4096,
            "max_window_layers": 62,
        },
    ),
    Family(
        architecture="SolarOpenForCausalLM",
        model_type="solar_open",
        qkv_bias="attention_bias",
        partial_rotary=True,
        decoder=solar_config,
        keys=solar_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True),
        names=_SHARED,
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "moe_intermediate_size": 1280,
            "num_experts_per_tok": 8,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
        },
    ),
    Family(
        architecture="FlexOlmoForCausalLM",
        model_type="flex_olmo",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_width=True,
        post_norms=True,
        keys=softmax_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts")),
        names={**SANDWICH_NAMES, **QWEN_EXPERTS.modules("mlp.gate")},
        defaults={"num_experts": 7, "num_experts_per_tok": 5, "rope_theta": 5e5},
    ),
    Family(
        architecture="ExaoneMoeForCausalLM",
        model_type="exaone_moe",
        qk_norm=True,
        sliding_window="listed",
        full_attention_every="sliding_window_pattern",
        rope_in_windows=True,
        decoder=exaone_moe_config,
        keys=exaone_moe_keys,
        mixture=Mixture(
            QWEN_EXPERTS.stacks("mlp.experts"), {f"mlp.{_CHOICE}": f"mlp.gate.{_CHOICE}"}, biased_choice=True
        ),
        names=_SHARED,
        ignored=(*ROTARY_TABLES, "mtp.*"),
        defaults={
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
        },
    ),
    Family(
        architecture="MiniMaxM2ForCausalLM",
        model_type="minimax_m2",
        qk_norm=True,
        qk_norm_width=True,
        partial_rotary=True,
        decoder=minimax_config,
        keys=minimax_keys,
        mixture=Mixture(
            MIXTRAL_EXPERTS.stacks("mlp.experts"),
            {
                "mlp.gate.weight": "block_sparse_moe.gate.weight",
                **{f"{module}.{_CHOICE}": f"block_sparse_moe.gate.{_CHOICE}" for module in ("mlp", "block_sparse_moe")},
            },
            biased_choice=True,
        ),
        names={**DECODER_NAMES, **MIXTRAL_EXPERTS.modules("block_sparse_moe.gate")},
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_theta": 5e6,
            "num_local_experts": 256,
            "num_experts_per_tok": 8,
        },
    ),
    Family(
        architecture="HunYuanMoEV1ForCausalLM",
        model_type="hunyuan_v1_moe",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_last=True,
        decoder=hunyuan_moe_config,
        keys=hunyuan_moe_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts")),
        names={
            **DECODER_NAMES,
            "attention.q_layernorm": (f"{_LAYER}self_attn.query_layernorm",),
            "attention.k_layernorm": (f"{_LAYER}self_attn.key_layernorm",),
            **QWEN_EXPERTS.modules("mlp.gate.wg"),
            **shared_expert("mlp.shared_mlp"),
        },
        defaults={"rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="HYV3ForCausalLM",
        model_type="hy_v3",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        decoder=hy_config,
        keys=hy_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True, predicts_further=True),
        names=_SHARED,
        renamed=(
            (".mlp.router.gate.", ".mlp.gate."),
            (".mlp.shared_mlp.", ".mlp.shared_experts."),
            *((f".mlp.{name}", f".mlp.gate.{_CHOICE}") for name in ("expert_bias", _CHOICE)),
        ),
        defaults={
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
        },
    ),
    Family(
        architecture="MellumForCausalLM",
        model_type="mellum",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        sliding_window="listed",
        full_attention_every=1,
        rope_by_layer_type=True,
        decoder=mellum_config,
        keys=mellum_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), predicts_further=True),
        names={**DECODER_NAMES, **QWEN_EXPERTS.modules("mlp.gate")},
        ignored=(*ROTARY_TABLES, "mtp.*"),
        defaults={
            "num_key_value_heads": 4,
            "head_dim": 128,
            "sliding_window": 1024,
            "rope_theta": 5e5,
            "rope_local_base_freq": 1e4,
            "moe_intermediate_size": 896,
            "n_routed_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
        },
    ),
)

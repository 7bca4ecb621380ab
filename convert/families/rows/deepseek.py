"""Latent attention: DeepSeek-V2 and V3 (R1, Kimi-K2) and GLM-4.7-Flash, with experts in groups, and Youtu and MiniCPM3
without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inflight.convert.checkpoint.moe_facts import MoeFacts
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family, Raw
from inflight.convert.families.mixture_keys import (
    LEAST_SUM,
    NO_RENORMALIZATION,
    dense_first_keys,
    dense_listed_keys,
    groups,
)
from inflight.convert.families.mixtures import QWEN_EXPERTS, Mixture, shared_expert
from inflight.convert.families.names import DECODER_NAMES, Names
from inflight.convert.families.rows.keys import head_share, minicpm_keys

_ATTENTION = "model.layers.{layer}.self_attn."
_NAMES: Names = {
    **{module: names for module, names in DECODER_NAMES.items() if module != "attention.qkv"},
    "attention.q": (f"{_ATTENTION}q_proj",),
    "attention.q_a": (f"{_ATTENTION}q_a_proj",),
    "attention.q_a_layernorm": (f"{_ATTENTION}q_a_layernorm",),
    "attention.q_b": (f"{_ATTENTION}q_b_proj",),
    "attention.kv_a": (f"{_ATTENTION}kv_a_proj_with_mqa",),
    "attention.kv_a_layernorm": (f"{_ATTENTION}kv_a_layernorm",),
    "attention.k_b": (f"{_ATTENTION}kv_b_proj[k.{{expert}}]",),
    "attention.v_b": (f"{_ATTENTION}kv_b_proj[v.{{expert}}]",),
}
_COLUMNS: Mapping[str, Any] = {
    "qkv_bias": "attention_bias",
    "dense_bias": "attention_bias",
    "interleaved_rope": True,
    "latent": True,
}
_MIXED_NAMES: Names = {**_NAMES, **QWEN_EXPERTS.modules("mlp.gate"), **shared_expert("mlp.shared_experts")}


def latent_config(sizes: Mapping[str, Any]) -> Callable[[Raw], Raw]:
    """What the other columns read: heads of queries, and the one head of keys and values that is cached. `sizes`: those
    of absent keys.
    """

    def read(raw: Raw) -> Raw:
        parts = [raw.get(key, sizes[key]) for key in ("qk_nope_head_dim", "qk_rope_head_dim")]
        whole = all(isinstance(size, int) for size in parts)
        return {**raw, "num_key_value_heads": 1, **({"head_dim": sum(parts)} if whole else {})}

    return read


def deepseek2_keys(values: ConfigValues) -> dict[str, Any]:
    method = values.raw.get("topk_method")
    if method not in ("greedy", "group_limited_greedy"):
        values.problems.append(f"topk_method {method!r} is not supported (supported: greedy, group_limited_greedy)")
    values.refuse("norm_topk_prob", "transformers ignores it")
    values.refuse("mlp_bias", "biases of products are not read")
    _refuse_scores(values, "softmax")
    grouped = groups(values) if method == "group_limited_greedy" else 1
    moe = MoeFacts(normalization_mode=NO_RENORMALIZATION, num_groups=grouped)
    return {**_latent_keys(values), **_experts(values, moe)}


def deepseek3_keys(values: ConfigValues) -> dict[str, Any]:
    method = values.raw.get("topk_method")
    if method not in (None, "noaux_tc"):
        values.problems.append(f"topk_method {method!r} is not supported (supported: noaux_tc)")
    _refuse_scores(values, "sigmoid")
    return {**_latent_keys(values), **_experts(values, _sigmoid(values))}


def glm_lite_keys(values: ConfigValues) -> dict[str, Any]:
    return {**_latent_keys(values), **dense_listed_keys(values, _sigmoid(values))}


def _sigmoid(values: ConfigValues) -> MoeFacts:
    return MoeFacts(biased_scores="sigmoid", least_sum=LEAST_SUM, num_groups=groups(values))


def _experts(values: ConfigValues, moe: MoeFacts) -> dict[str, Any]:
    every = values.raw.get("moe_layer_freq")
    if every not in (None, 1):
        values.problems.append(f"moe_layer_freq {every!r} is not supported: every layer has experts")
    return {} if values.raw.get("n_routed_experts") is None else dense_first_keys(values, moe)


def _refuse_scores(values: ConfigValues, known: str) -> None:
    if values.raw.get("scoring_func") not in (None, known):
        values.problems.append(f"scoring_func {values.raw['scoring_func']!r} is not supported: it is {known} here")


def minicpm3_config(raw: Raw) -> Raw:
    """Values of heads are as large as their share of the hidden size where the config is silent."""
    values = raw.get("v_head_dim")
    return latent_config(_MINICPM_SIZES)({**raw, "v_head_dim": head_share(raw) if values is None else values})


def minicpm3_keys(values: ConfigValues) -> dict[str, Any]:
    return {**_latent_keys(values), **minicpm_keys(values)}


def _latent_keys(values: ConfigValues) -> dict[str, Any]:
    if values.raw.get("rope_interleave") is False:
        values.problems.append("rope_interleave false is not supported: neighbours are turned here")
    rotary = values.count("qk_rope_head_dim")
    if rotary % 2 and values.shapes_known:
        values.problems.append(f"qk_rope_head_dim {rotary} is odd, and pairs are turned")
    return {
        "kv_lora_rank": values.count("kv_lora_rank"),
        "q_lora_rank": None if values.raw.get("q_lora_rank") is None else values.count("q_lora_rank"),
        "qk_nope_head_dim": values.count("qk_nope_head_dim"),
        "qk_rope_head_dim": rotary,
        "rotary_embedding_dim": rotary,
        "v_head_dim": values.count("v_head_dim"),
    }


_GLM_SIZES: Mapping[str, Any] = {
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
}
_MINICPM_SIZES: Mapping[str, Any] = {
    "kv_lora_rank": 256,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
}
_SIZES: Mapping[str, Any] = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
_V3_EXPERTS: Mapping[str, Any] = {
    "n_group": 8,
    "topk_group": 4,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "moe_intermediate_size": 2048,
}
DEEPSEEK: tuple[Family, ...] = (
    Family(
        architecture="DeepseekV2ForCausalLM",
        model_type="deepseek_v2",
        keys=deepseek2_keys,
        decoder=latent_config(_SIZES),
        names=_MIXED_NAMES,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts")),
        defaults={
            **_SIZES,
            "topk_method": "greedy",
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "first_k_dense_replace": 0,
            "moe_intermediate_size": 1407,
        },
        **_COLUMNS,
    ),
    Family(
        architecture="DeepseekV3ForCausalLM",
        model_type="deepseek_v3",
        keys=deepseek3_keys,
        decoder=latent_config(_SIZES),
        names=_MIXED_NAMES,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True, predicts_further=True),
        defaults={**_SIZES, **_V3_EXPERTS},
        **_COLUMNS,
    ),
    Family(
        architecture="Glm4MoeLiteForCausalLM",
        model_type="glm4_moe_lite",
        keys=glm_lite_keys,
        decoder=latent_config(_GLM_SIZES),
        names=_MIXED_NAMES,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True, predicts_further=True),
        defaults={
            **_GLM_SIZES,
            "rms_norm_eps": 1e-5,
            "n_routed_experts": 64,
            "n_shared_experts": 1,
            "num_experts_per_tok": 4,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.8,
            "moe_intermediate_size": 1536,
        },
        **_COLUMNS,
    ),
    Family(
        architecture="YoutuForCausalLM",
        model_type="youtu",
        keys=_latent_keys,
        decoder=latent_config(_SIZES),
        names=_NAMES,
        defaults={**_SIZES, "tie_word_embeddings": True},
        **_COLUMNS,
    ),
    Family(
        architecture="MiniCPM3ForCausalLM",
        model_type="minicpm3",
        mlp_bias="mlp_bias",
        keys=minicpm3_keys,
        decoder=minicpm3_config,
        names=_NAMES,
        defaults={
            **_MINICPM_SIZES,
            "rms_norm_eps": 1e-5,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 256,
            "tie_word_embeddings": True,
        },
        **{**_COLUMNS, "interleaved_rope": False},
    ),
)

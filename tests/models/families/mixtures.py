"""Random mixtures of experts: their config classes, and what their configs have beside the common keys."""

from __future__ import annotations

from typing import Any

from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    Dots1Config,
    Ernie4_5_MoeConfig,
    ExaoneMoeConfig,
    FlexOlmoConfig,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    GptOssConfig,
    GraniteMoeConfig,
    GraniteMoeSharedConfig,
    HunYuanMoEV1Config,
    HYV3Config,
    MellumConfig,
    MiniMaxM2Config,
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    SolarOpenConfig,
)

MIXTURE_CONFIGS: dict[str, Any] = {
    "mixtral": MixtralConfig,
    "qwen3_moe": Qwen3MoeConfig,
    "qwen2_moe": Qwen2MoeConfig,
    "phimoe": PhimoeConfig,
    "olmoe": OlmoeConfig,
    "granitemoe": GraniteMoeConfig,
    "granitemoeshared": GraniteMoeSharedConfig,
    "gpt_oss": GptOssConfig,
    "ernie4_5_moe": Ernie4_5_MoeConfig,
    "glm4_moe": Glm4MoeConfig,
    "glm4_moe_lite": Glm4MoeLiteConfig,
    "deepseek_v2": DeepseekV2Config,
    "deepseek_v3": DeepseekV3Config,
    "dots1": Dots1Config,
    "solar_open": SolarOpenConfig,
    "flex_olmo": FlexOlmoConfig,
    "exaone_moe": ExaoneMoeConfig,
    "minimax_m2": MiniMaxM2Config,
    "hunyuan_v1_moe": HunYuanMoEV1Config,
    "hy_v3": HYV3Config,
    "mellum": MellumConfig,
}
MIXTURES = tuple(MIXTURE_CONFIGS)
_FULL, _SLIDING = "full_attention", "sliding_attention"
# Families of latent attention, which have no key-value heads of their own.
LATENT = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
# transformers has no head size of its own for these: it is hidden_size / heads.
SHARED_OUT_HEADS = ("granitemoe", "granitemoeshared", "qwen2_moe", "olmoe", "ernie4_5_moe")


def random_mixture(rng: Any, family: str) -> dict[str, Any]:
    """Keys of a random mixture of odd sizes; now and then every expert is chosen."""
    count = int(rng.integers(2, 12))
    top_k = count if rng.random() < 0.2 else int(rng.integers(1, count + 1))
    sizes: dict[str, Any] = {"num_experts_per_tok": top_k}
    flag = bool(rng.random() < 0.5)
    if family.startswith("qwen"):
        sizes |= {"num_experts": count, "moe_intermediate_size": int(rng.integers(9, 90)), "norm_topk_prob": flag}
        dense = rng.random()
        sizes |= {"mlp_only_layers": [0]} if dense < 0.3 else {"decoder_sparse_step": 2} if dense < 0.5 else {}
        shared = {"shared_expert_intermediate_size": int(rng.integers(9, 70))} if family == "qwen2_moe" else {}
        return {**sizes, **shared}
    if family in ("olmoe", "flex_olmo"):
        return {**sizes, "num_experts": count, "norm_topk_prob": flag, "attention_bias": flag}
    if family.startswith("granite"):
        scales = {name: float(rng.uniform(0.3, 3)) for name in ("embedding_multiplier", "residual_multiplier")}
        scales |= {"attention_multiplier": float(rng.uniform(0.02, 0.3)), "logits_scaling": float(rng.uniform(0.1, 9))}
        shared = {"shared_intermediate_size": int(rng.integers(9, 70))} if family == "granitemoeshared" else {}
        return {**sizes, **scales, **shared, "num_local_experts": count, "attention_bias": flag}
    if family == "ernie4_5_moe":
        sizes = {"moe_k": top_k, "moe_num_experts": count, "moe_num_shared_experts": int(rng.integers(0, 3))}
        sizes |= {"moe_intermediate_size": int(rng.integers(9, 90)), "moe_layer_start_index": int(rng.integers(0, 2))}
        return {**sizes, "moe_norm_min": float(rng.choice([1e-12, 0.1]))}
    if family == "glm4_moe":
        sizes |= {"n_routed_experts": count, "n_shared_experts": int(rng.integers(1, 3)), "attention_bias": flag}
        sizes |= {"moe_intermediate_size": int(rng.integers(9, 90)), "first_k_dense_replace": int(rng.integers(0, 2))}
        sizes |= random_groups(rng) if flag else {}
        return {**sizes, "use_qk_norm": not flag, "routed_scaling_factor": float(rng.uniform(0.5, 2.5))}
    if family in LATENT:
        return random_latent(rng, family)
    if family in ("dots1", "solar_open", "exaone_moe", "hy_v3", "mellum"):
        return random_routed(rng, family)
    if family == "hunyuan_v1_moe":
        return {"num_experts": count, "moe_topk": [top_k] * 2 if flag else top_k, "attention_bias": flag}
    if family == "minimax_m2":
        sizes |= {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": float(rng.choice([0.5, 1.0]))}}
    if family == "gpt_oss":
        yarn = {"rope_type": "yarn", "rope_theta": 15000.0, "factor": float(rng.uniform(2, 20)), "beta_fast": 32.0}
        yarn |= {"beta_slow": 1.0, "truncate": flag, "original_max_position_embeddings": 64}
        window = int(rng.integers(5, 40))
        return {**sizes, "num_local_experts": count, "rope_parameters": yarn, "sliding_window": window}
    if family == "phimoe":
        sizes = {"num_experts_per_tok": 2, "router_jitter_noise": float(rng.uniform(0.01, 0.4)), "attention_bias": flag}
        sizes |= {"lm_head_bias": bool(rng.random() < 0.5)}
    return {**sizes, "num_local_experts": count}


def random_routed(rng: Any, family: str) -> dict[str, Any]:
    """Keys of experts in groups, of windows in one of two layers, and of layers without experts."""
    flag, window = bool(rng.random() < 0.5), int(rng.integers(5, 40))
    sizes: dict[str, Any] = {"moe_intermediate_size": int(rng.integers(9, 90)), "attention_bias": flag}
    if family == "mellum":
        count = int(rng.integers(2, 12))
        rope = [{"rope_type": "default", "rope_theta": float(base)} for base in rng.uniform(100, 1e6, 2)]
        kinds = [_FULL, _SLIDING]
        sizes |= {"num_experts": count, "num_experts_per_tok": int(rng.integers(1, count + 1)), "norm_topk_prob": flag}
        sizes |= {"layer_types": kinds[:: 1 if flag else -1], "sliding_window": window}
        return {**sizes, "rope_parameters": dict(zip(kinds, rope, strict=True))}
    if family == "hy_v3":
        count = int(rng.integers(2, 12))
        sizes |= {"num_experts": count, "num_experts_per_tok": int(rng.integers(1, count + 1))}
        sizes |= {"num_shared_experts": int(rng.integers(1, 3)), "router_scaling_factor": float(rng.uniform(0.5, 3))}
        return {**sizes, "mlp_layer_types": [str(rng.choice(["dense", "sparse"])), "sparse"]}
    sizes |= {**random_groups(rng), "norm_topk_prob": True, "routed_scaling_factor": float(rng.uniform(0.5, 2.5))}
    shared = int(rng.integers(1, 3))
    if family == "exaone_moe":
        sizes |= {"num_experts": sizes.pop("n_routed_experts"), "num_shared_experts": shared}
        return {**sizes, "layer_types": [_SLIDING, _FULL], "sliding_window": window, "first_k_dense_replace": int(flag)}
    sizes |= {"n_shared_experts": shared}
    if family == "dots1":
        sizes |= {"first_k_dense_replace": int(flag), "sliding_window": window, "max_window_layers": 1}
    return sizes


def random_groups(rng: Any) -> dict[str, Any]:
    """Keys of experts in groups, of which now and then there is one."""
    groups, size = int(rng.integers(1, 5)), int(rng.integers(2, 5))
    chosen = int(rng.integers(1, groups + 1))
    sizes = {"n_group": groups, "topk_group": chosen, "n_routed_experts": groups * size}
    return {**sizes, "num_experts_per_tok": int(rng.integers(1, chosen * size + 1))}


def random_latent(rng: Any, family: str) -> dict[str, Any]:
    """Keys of latent attention, and of experts in groups."""
    sizes = {**random_latent_attention(rng), **random_groups(rng), "n_shared_experts": int(rng.integers(1, 3))}
    sizes |= {"moe_intermediate_size": int(rng.integers(9, 90)), "routed_scaling_factor": float(rng.uniform(0.5, 2.5))}
    if family == "glm4_moe_lite":
        return {**sizes, "mlp_layer_types": [str(rng.choice(["dense", "sparse"])), "sparse"]}
    sizes |= {"first_k_dense_replace": int(rng.integers(0, 2))}
    if family == "deepseek_v2":
        # transformers' DeepSeek-V2 turns pairs as complex numbers, which begin at even places.
        sizes |= {name: 2 * sizes[name] for name in ("kv_lora_rank", "qk_nope_head_dim")}
        sizes |= {"topk_method": str(rng.choice(["greedy", "group_limited_greedy"]))}
    return sizes


def random_latent_attention(rng: Any) -> dict[str, Any]:
    """Odd sizes, with a product of queries or two."""
    flag, rotary = bool(rng.random() < 0.5), 2 * int(rng.integers(1, 20))
    sizes: dict[str, Any] = {"kv_lora_rank": int(rng.integers(5, 90))}
    sizes |= {"q_lora_rank": int(rng.integers(9, 70)) if flag else None}
    sizes |= {"qk_nope_head_dim": int(rng.integers(3, 50)), "qk_rope_head_dim": rotary, "head_dim": rotary}
    sizes |= {"v_head_dim": int(rng.integers(3, 50)), "attention_bias": bool(rng.random() < 0.3)}
    if rng.random() < 0.6:
        yarn: dict[str, Any] = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": float(rng.uniform(2, 20))}
        yarn |= {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 64}
        both = {name: float(rng.uniform(0.5, 1.5)) for name in ("mscale", "mscale_all_dim")}
        sizes |= {"rope_parameters": yarn | (both if rng.random() < 0.7 else {})}
    return sizes

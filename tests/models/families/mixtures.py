"""Random mixtures of experts: their config classes, and what their configs have beside the common keys."""

from __future__ import annotations

from typing import Any

from transformers import (
    Ernie4_5_MoeConfig,
    Glm4MoeConfig,
    GptOssConfig,
    GraniteMoeConfig,
    GraniteMoeSharedConfig,
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
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
}
MIXTURES = tuple(MIXTURE_CONFIGS)
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
    if family == "olmoe":
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
        return {**sizes, "use_qk_norm": not flag, "routed_scaling_factor": float(rng.uniform(0.5, 2.5))}
    if family == "gpt_oss":
        yarn = {"rope_type": "yarn", "rope_theta": 15000.0, "factor": float(rng.uniform(2, 20)), "beta_fast": 32.0}
        yarn |= {"beta_slow": 1.0, "truncate": flag, "original_max_position_embeddings": 64}
        window = int(rng.integers(5, 40))
        return {**sizes, "num_local_experts": count, "rope_parameters": yarn, "sliding_window": window}
    if family == "phimoe":
        sizes = {"num_experts_per_tok": 2, "router_jitter_noise": float(rng.uniform(0.01, 0.4)), "attention_bias": flag}
    return {**sizes, "num_local_experts": count}

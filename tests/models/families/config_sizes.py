"""Sizes for the config of any family, under the names that its class has for them."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING

from inflight.convert.families.family import Family
from tests.models.families.pooled_configs import T5_LIKE

SIZES = {
    "vocab_size": 64,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_TYPES = {"attention_types": [[["global", "local"], 2]]}


def sizes_of(family: Family) -> dict[str, Any]:
    """SIZES as arguments of the config's class, and what else it needs."""
    made = CONFIG_MAPPING[family.model_type]
    theirs = getattr(made, "attribute_map", {}) or {}
    # A map may also tell old names of a key that is its own.
    names = {key: theirs[key] for key in SIZES if key in theirs}
    sizes: dict[str, Any] = {names.get(key, key): value for key, value in SIZES.items()}
    renamed = {"falcon": "ffn_hidden_size", "opt": "ffn_dim"}.get(family.model_type)
    if family.model_type in T5_LIKE:
        renamed = "d_ff"
    if family.model_type in ("gpt2", "gptj", "codegen", "gpt_bigcode"):
        renamed = "n_inner"
    if renamed is not None:
        sizes[renamed] = sizes.pop("intermediate_size")
    if family.model_type == "gpt_neo":
        sizes |= _TYPES
    if family.model_type in ("gptj", "codegen"):
        sizes["rotary_dim"] = 8
    if family.model_type == "dots1":
        sizes |= {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 3, "norm_topk_prob": True}
    if family.model_type in ("deberta", "deberta-v2"):
        sizes |= {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p"]}
    if family.model_type == "deepseek_v2":
        sizes["num_experts_per_tok"] = 3  # without it transformers has no number either
    return sizes

"""What the config.json of a mixture of experts, and of latent attention, had, of the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.source.gguf.tensors import GgufTensor


def expert_sizes(name: str, metadata: Mapping[str, Any], tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    """How many experts there are, how many are chosen, and their sizes. Those that old files do not say are the sizes
    of their matrices.
    """
    sizes = {
        "moe_intermediate_size": ("expert_feed_forward_length", ".ffn_down_exps.weight"),
        "shared_expert_intermediate_size": ("expert_shared_feed_forward_length", ".ffn_down_shexp.weight"),
    }
    # Some families have one of these keys, some the other.
    count = metadata.get(f"{name}.expert_count")
    found: dict[str, Any] = {
        "num_experts": count,
        "num_local_experts": count,
        "num_experts_per_tok": metadata.get(f"{name}.expert_used_count"),
    }
    for key, (said, matrix) in sizes.items():
        stored = next((tensor.shape[-1] for each, tensor in tensors.items() if each.endswith(matrix)), None)
        size = metadata.get(f"{name}.{said}", stored)
        found |= {} if size is None else {key: size}
    return found


def head_sizes(name: str, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of heads. What the file calls keys and values are the rows that are cached, unless it is an old one."""
    rotary, listed = config.get("qk_rope_head_dim"), config["n_group"]
    key, value = (
        metadata.get(f"{name}.attention.{part}_length_mla", metadata.get(f"{name}.attention.{part}_length"))
        for part in ("key", "value")
    )
    whole = isinstance(key, int) and isinstance(rotary, int)
    grouped = isinstance(listed, int) and listed > 1
    greedy = "group_limited_greedy" if grouped else "greedy"
    return {
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": rotary,
        "qk_nope_head_dim": key - rotary if whole else None,
        "v_head_dim": value,
        "topk_method": "noaux_tc" if config["model_type"] == "deepseek_v3" else greedy,
    }

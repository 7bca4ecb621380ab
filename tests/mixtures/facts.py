"""What of a transformers model a token meets, counted there."""

from __future__ import annotations

from typing import Any


def parameters_by_hand(model: Any) -> tuple[int, int]:
    """All parameters, and those that one token meets: of the stacks of experts, num_experts_per_tok."""
    total = active = 0
    top_k = model.config.num_experts_per_tok
    tied = model.config.tie_word_embeddings
    # With the biases of routers, which are no parameters to transformers.
    for name, parameter in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        total += parameter.numel()
        active += parameter.numel() * top_k // len(parameter) if ".experts." in name else parameter.numel()
    return total, active

"""What Gemma's configs have beside the common keys, and what transformers assumes where they are silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.families.config_values import ConfigValues

_CAUSAL = "rows see the positions before them alone"
_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
GEMMA2_DEFAULTS: Mapping[str, Any] = {
    **_DEFAULTS,
    "max_position_embeddings": 8192,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
GEMMA3_DEFAULTS: Mapping[str, Any] = {
    **_DEFAULTS,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window_pattern": 6,
}


GEMMA_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}


def gemma_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the first models call gelu is meant with its tanh."""
    return {**raw, "hidden_act": "gelu_pytorch_tanh"} if raw.get("hidden_act") == "gelu" else raw


def gemma_keys(values: ConfigValues) -> dict[str, Any]:
    values.refuse("use_bidirectional_attention", _CAUSAL)
    return {}


def vault_keys(values: ConfigValues) -> dict[str, Any]:
    """Gemma 2 without the norms after attention and MLP."""
    return {**gemma2_keys(values), "inter_layernorms": None}


def gemma2_keys(values: ConfigValues) -> dict[str, Any]:
    """The keys of the checkpoint that Gemma 2 has."""
    values.refuse("use_bidirectional_attention", _CAUSAL)
    return {**_common_keys(values), "attn_logit_softcapping": values.optional_number("attn_logit_softcapping")}


def gemma3_keys(values: ConfigValues) -> dict[str, Any]:
    """The keys of the checkpoint that Gemma 3 has; its soft cap of attention is passed over by transformers."""
    values.refuse("attn_logit_softcapping", "transformers does not apply it in Gemma3ForCausalLM")
    return _common_keys(values)


def gemma3_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of tokens that see all others, windows reach half of what is written to each side."""
    window = raw.get("sliding_window", _DEFAULTS["sliding_window"])
    if not raw.get("use_bidirectional_attention") or not isinstance(window, int) or isinstance(window, bool):
        return raw
    return {**raw, "sliding_window": window // 2 + 1}


def _common_keys(values: ConfigValues) -> dict[str, Any]:
    return {
        "inter_layernorms": True,
        "query_pre_attn_scalar": values.number("query_pre_attn_scalar", 256),
        "final_logit_softcapping": values.optional_number("final_logit_softcapping"),
    }

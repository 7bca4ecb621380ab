"""Llama 4: layers that turn and see chunks beside layers that do neither, and experts beside plain MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.config import MAX_LAYERS
from inflight.convert.checkpoint.moe_facts import MOST_EXPERTS, MoeFacts
from inflight.convert.checkpoint.rope import QueryScale
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family, Raw
from inflight.convert.families.mixtures import Expert, Mixture, shared_expert
from inflight.convert.families.names import DECODER_NAMES

_LAYER = "model.layers.{layer}.feed_forward."
_EXPERT = Expert(*(f"feed_forward.experts.{{expert}}.{name}_proj" for name in ("gate", "up", "down")))
_DEFAULTS: Mapping[str, Any] = {
    "intermediate_size": 16384,
    "moe_intermediate_size": 8192,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
}


def llama4_config(raw: Raw) -> Raw:
    """Its intermediate_size is that of experts, and intermediate_size_mlp that of layers without."""
    sizes = {"intermediate_size": "intermediate_size_mlp", "moe_intermediate_size": "intermediate_size"}
    found = {ours: raw[theirs] for ours, theirs in sizes.items() if theirs in raw}
    others = {key: value for key, value in raw.items() if key != "intermediate_size"}
    return {**others, **found, "no_rope_layers": raw.get("no_rope_layers") or None}


def llama4_keys(values: ConfigValues) -> dict[str, Any]:
    layers = values.raw.get("num_hidden_layers")
    count = min(layers, MAX_LAYERS) if isinstance(layers, int) else 0
    mixed = values.raw.get("moe_layers")
    if mixed is None:
        step = values.count("interleave_moe_layer_step", 1)
        mixed = list(range(step - 1, count, step))
    if not isinstance(mixed, list) or not all(isinstance(layer, int) for layer in mixed):
        values.problems.append(f"moe_layers must be a list of layers, not {mixed!r}")
        mixed = []
    dense = tuple(layer for layer in range(count) if layer not in mixed)
    if len(dense) == count:
        return {}
    size = values.count("moe_intermediate_size")
    moe = MoeFacts(
        num_experts=values.count("num_local_experts", most=MOST_EXPERTS),
        top_k=values.count("num_experts_per_tok", most=MOST_EXPERTS),
        weighs_inputs=True,
    )
    keys = {"moe": moe, "moe_intermediate_size": size, "moe_shared_expert_intermediate_size": size}
    return {**keys, "mlp_only_layers": dense} if dense else keys


def llama4_facts(values: ConfigValues) -> dict[str, Any]:
    chunk = None if values.raw.get("attention_chunk_size") is None else values.count("attention_chunk_size")
    if not values.raw.get("attn_temperature_tuning"):
        return {"attention_chunk": chunk}
    factor, length = values.number("attn_scale", 0.1), values.count("floor_scale")
    return {
        "attention_chunk": chunk,
        "query_scale": QueryScale(factor=factor, length=length, first=1, unrotated=True),
    }


_NAMES = {
    **DECODER_NAMES,
    "mlp.fc": (f"{_LAYER}gate_proj",),
    "mlp.gate": (f"{_LAYER}up_proj",),
    "mlp.proj": (f"{_LAYER}down_proj",),
    **_EXPERT.modules("feed_forward.router"),
    **shared_expert("feed_forward.shared_expert"),
}

LLAMA4 = (
    Family(
        architecture="Llama4ForCausalLM",
        model_type="llama4_text",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm="use_qk_norm",
        qk_norm_last=True,
        qk_norm_bare=True,
        interleaved_rope=True,
        skips_rope=True,
        sliding_window="chunked",
        keys=llama4_keys,
        facts=llama4_facts,
        decoder=llama4_config,
        mixture=Mixture(_EXPERT.stacks("feed_forward.experts"), transposed=True),
        names=_NAMES,
        defaults=_DEFAULTS,
    ),
)

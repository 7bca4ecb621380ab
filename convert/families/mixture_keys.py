"""What the configs of mixtures of experts have beside the common keys, and what transformers assumes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.config import MAX_LAYERS as MOST_LAYERS
from inflight.convert.checkpoint.model_spec import CLAMP_LIMIT, CLAMP_SLOPE
from inflight.convert.checkpoint.moe_facts import MOST_EXPERTS, RENORMALIZE, SPARSE_MIXER_EXPERTS, MoeFacts
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.rows.keys import granite_keys, refuse_other_head_size

NO_RENORMALIZATION, SPARSE_MIXER = 0, 2
# What transformers adds to the sum by which it divides scores.
LEAST_SUM = 1e-20


# Keys of MiniMax's own config that the class of transformers has not.
_MINIMAX_FIXED = {
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "scoring_func": "sigmoid",
    "use_routing_bias": True,
    "shared_intermediate_size": 0,
}


def mixtral_keys(values: ConfigValues) -> dict[str, Any]:
    return {"moe": _moe(values, RENORMALIZE)}


def phimoe_keys(values: ConfigValues) -> dict[str, Any]:
    """Two experts by the sparse mixer, whatever num_experts_per_tok says, as transformers has it."""
    if values.raw.get("num_experts_per_tok") != SPARSE_MIXER_EXPERTS:
        values.problems.append(
            f"num_experts_per_tok {values.raw.get('num_experts_per_tok')!r} is not supported: this router chooses two"
        )
    return {"moe": _moe(values, SPARSE_MIXER, sparse_mixer_epsilon=values.number("router_jitter_noise", 0.01))}


def granite_moe_keys(values: ConfigValues) -> dict[str, Any]:
    """Granite's scales, and the expert that every token meets, where there is one."""
    shared = values.raw.get("shared_intermediate_size")
    keys = {**granite_keys(values), "moe": _moe(values, RENORMALIZE)}
    if not shared:
        return keys
    return {**keys, "moe_shared_expert_intermediate_size": values.count("shared_intermediate_size")}


def qwen_keys(values: ConfigValues) -> dict[str, Any]:
    """Experts in every `decoder_sparse_step`-th layer but those of `mlp_only_layers`."""
    values.refuse("use_sliding_window", "windows of this family are not read")
    layers = values.raw.get("num_hidden_layers")
    step = values.count("decoder_sparse_step", 1)
    only = values.raw.get("mlp_only_layers") or []
    if not isinstance(only, list) or not all(isinstance(layer, int) for layer in only):
        values.problems.append(f"mlp_only_layers must be a list of layers, not {only!r}")
        only = []
    count = layers if isinstance(layers, int) else 0
    dense = tuple(layer for layer in range(min(count, MOST_LAYERS)) if layer in only or (layer + 1) % step)
    if len(dense) == count or _count_of_experts(values) == 0:
        return {}
    mode = RENORMALIZE if values.flag("norm_topk_prob") else NO_RENORMALIZATION
    keys = {"moe": _moe(values, mode), "moe_intermediate_size": values.count("moe_intermediate_size")}
    return {**keys, "mlp_only_layers": dense} if dense else keys


def qwen2_keys(values: ConfigValues) -> dict[str, Any]:
    keys = qwen_keys(values)
    size = values.count("shared_expert_intermediate_size")
    return {**keys, "moe_shared_expert_intermediate_size": size} if keys else keys


def olmoe_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other_head_size(values)
    values.refuse("clip_qkv", "queries and keys are not clipped behind their norms")
    return softmax_keys(values)


def softmax_keys(values: ConfigValues, *, renormalized: bool | None = None) -> dict[str, Any]:
    """Experts in all layers, whose weights are shares of all or (None: as norm_topk_prob says) of the chosen."""
    chosen = values.flag("norm_topk_prob") if renormalized is None else renormalized
    return {"moe": _moe(values, RENORMALIZE if chosen else NO_RENORMALIZATION)}


def minimax_keys(values: ConfigValues) -> dict[str, Any]:
    """Scores are logistic functions, and those of the chosen have the sum 1, whatever small one they had."""
    for key, known in _MINIMAX_FIXED.items():
        if values.raw.get(key) not in (None, known):
            values.problems.append(f"{key} {values.raw[key]!r} is not supported: transformers has {known!r}")
    if {*map(str, values.raw.get("attn_type_list") or ())} - {"1"}:
        values.problems.append("attn_type_list may have 1 alone: other layers carry a state from token to token")
    return {"moe": _moe(values, RENORMALIZE).model_copy(update={"biased_scores": "sigmoid"})}


def uniform(value: Any) -> Any:
    """The one value of a list of values for each layer, or what there is."""
    return value[0] if isinstance(value, list) and value and all(each == value[0] for each in value) else value


def ernie_keys(values: ConfigValues) -> dict[str, Any]:
    """Experts in every `moe_layer_interval`-th layer from `moe_layer_start_index` to `moe_layer_end_index`."""
    values.refuse("use_bias", "biases of products are not read")
    refuse_other_head_size(values)
    layers, interval = _number_of_layers(values), values.count("moe_layer_interval", 1)
    first, last = (values.raw.get(f"moe_layer_{end}_index") for end in ("start", "end"))
    if not isinstance(first, int) or not isinstance(last, int) or first < 0:
        values.problems.append(f"moe_layer_start_index {first!r} and moe_layer_end_index {last!r} must be layers")
        first, last = 0, -1
    last = layers - 1 if last == -1 else last
    dense = tuple(layer for layer in range(layers) if (layer + 1) % interval or not first <= layer <= last)
    if len(dense) == layers:
        return {}
    moe = MoeFacts(
        num_experts=values.count("moe_num_experts", most=MOST_EXPERTS),
        top_k=values.count("moe_k", most=MOST_EXPERTS),
        biased_scores="softmax",
        least_sum=values.number("moe_norm_min", 1e-12),
    )
    size = values.count("moe_intermediate_size")
    shared = values.raw.get("moe_num_shared_experts")
    keys = {"moe": moe, "moe_intermediate_size": size} | ({"mlp_only_layers": dense} if dense else {})
    if not shared:
        return keys
    return {**keys, "moe_shared_expert_intermediate_size": size * values.count("moe_num_shared_experts")}


def glm_keys(values: ConfigValues) -> dict[str, Any]:
    return dense_first_keys(values, MoeFacts(biased_scores="sigmoid", least_sum=LEAST_SUM, num_groups=groups(values)))


def dense_first_keys(values: ConfigValues, moe: MoeFacts) -> dict[str, Any]:
    """Experts behind the first `first_k_dense_replace` layers, as GLM and DeepSeek have them. `moe` has how they are
    chosen.
    """
    first = values.raw.get("first_k_dense_replace")
    if not isinstance(first, int) or first < 0:
        values.problems.append(f"first_k_dense_replace must be a number of layers, not {first!r}")
        first = 0
    return routed_keys(values, moe, tuple(range(min(first, _number_of_layers(values)))))


def dense_listed_keys(values: ConfigValues, moe: MoeFacts) -> dict[str, Any]:
    """Experts in the layers that mlp_layer_types calls sparse; in all but the first where it is silent."""
    layers, types = _number_of_layers(values), values.raw.get("mlp_layer_types")
    types = ["dense", *["sparse"] * (layers - 1)] if types is None else types
    if not isinstance(types, list) or len(types) != layers or {*map(str, types)} - {"dense", "sparse"}:
        values.problems.append(f"mlp_layer_types must have dense or sparse for each of {layers} layers, not {types!r}")
        types = []
    return routed_keys(values, moe, tuple(layer for layer, kind in enumerate(types) if kind == "dense"))


def routed_keys(values: ConfigValues, moe: MoeFacts, dense: tuple[int, ...]) -> dict[str, Any]:
    """Experts in all layers but the `dense` ones."""
    if moe.biased_scores is not None and not values.flag("norm_topk_prob"):
        values.problems.append("norm_topk_prob false is not supported: scores of the chosen are normalized")
    if len(dense) >= _number_of_layers(values):
        return {}
    size = values.count("moe_intermediate_size")
    found = {
        "num_experts": values.count("n_routed_experts", most=MOST_EXPERTS),
        "top_k": values.count("num_experts_per_tok", most=MOST_EXPERTS),
        "routed_scaling_factor": values.number("routed_scaling_factor", 1.0),
        "top_groups": values.count("topk_group", 1, most=MOST_EXPERTS) if moe.num_groups > 1 else 1,
    }
    keys = {"moe": moe.model_copy(update=found), "moe_intermediate_size": size}
    if values.raw.get("n_shared_experts") not in (None, 0):
        keys["moe_shared_expert_intermediate_size"] = size * values.count("n_shared_experts")
    return {**keys, "mlp_only_layers": dense} if dense else keys


def groups(values: ConfigValues) -> int:
    """Of experts; null and absent mean that there are none."""
    return values.count("n_group", 1, most=MOST_EXPERTS)


def _number_of_layers(values: ConfigValues) -> int:
    layers = values.raw.get("num_hidden_layers")
    return min(layers, MOST_LAYERS) if isinstance(layers, int) else 0


def gpt_oss_keys(values: ConfigValues) -> dict[str, Any]:
    for key, known in (("swiglu_limit", CLAMP_LIMIT), ("swiglu_alpha", CLAMP_SLOPE)):
        if values.raw.get(key) not in (None, known):
            values.problems.append(f"{key} {values.raw[key]!r} is not supported: experts are clamped by {known:g} here")
    return {"moe": _moe(values, RENORMALIZE)}


def _count_of_experts(values: ConfigValues) -> Any:
    """num_experts, which transformers also calls num_local_experts."""
    raw = values.raw
    return raw["num_local_experts"] if raw.get("num_local_experts") is not None else raw.get("num_experts")


def _moe(values: ConfigValues, mode: int, **further: Any) -> MoeFacts:
    key = "num_local_experts" if values.raw.get("num_local_experts") is not None else "num_experts"
    count, top_k = values.count(key, most=MOST_EXPERTS), values.count("num_experts_per_tok", most=MOST_EXPERTS)
    return MoeFacts(num_experts=count, top_k=top_k, normalization_mode=mode, **further)


MIXTRAL_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
QWEN3_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
QWEN2_DEFAULTS: Mapping[str, Any] = {
    "qkv_bias": True,
    "num_key_value_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
}
PHIMOE_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "router_jitter_noise": 0.01,
}
OLMOE_DEFAULTS: Mapping[str, Any] = {
    "rms_norm_eps": 1e-5,
    "num_experts": 64,
    "num_experts_per_tok": 8,
}
ERNIE_DEFAULTS: Mapping[str, Any] = {
    "tie_word_embeddings": True,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "moe_intermediate_size": 1536,
    "moe_k": 6,
    "moe_num_experts": 64,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": -1,
    "moe_layer_interval": 1,
}
GLM_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}
GPT_OSS_DEFAULTS: Mapping[str, Any] = {
    "attention_bias": True,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "sliding_window": 128,
    "rope_theta": 150000.0,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
}

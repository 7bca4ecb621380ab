"""What a checkpoint's config.json may ask for, and what it is refused for, by name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.expert_stacks import alike, stack_problem
from inflight.convert.checkpoint.model_spec import Activation
from inflight.convert.checkpoint.rope import RotaryScaling
from inflight.convert.families.family import Family
from inflight.convert.families.table import EVERY_FAMILY, FAMILIES
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.dtypes import FLOAT_DTYPES

# Keys of the format's readers that change the mathematics unless they have this value.
_NEUTRAL: dict[str, Any] = {
    "residual_mlp": False,
    "q_scaling": 1.0,
    "embedding_scale": None,
    "apply_query_key_layer_scaling": False,
    "longrope_short_mscale": None,
    "longrope_long_mscale": None,
    "use_logn_attn": False,
    "fc_after_embed": False,
    "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True,
    "layer_idx_offset": 0,
}


def unsupported_keys(raw: Mapping[str, Any]) -> list[str]:
    """Keys of a config.json outside the record that ask for what cannot be expressed; empty when all is well."""
    return [
        f"{key} {raw[key]!r}" for key, neutral in _NEUTRAL.items() if raw.get(key) is not None and raw[key] != neutral
    ]


# Names of activations, as Hugging Face configs and the format have them -> what they are. The format's own "gelu" is
# the one with the tanh: see `activation`.
ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swiglu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "xielu",
}
# The module of an activation that has numbers of its own.
ACT = "mlp.act"
# The stacks of a layer with experts.
EXPERTS = ("fc", "proj")
_POSITIONS = ("rope_gpt_neox", "long_rope", "yarn")
_BASE_MISSING = (
    "Warning: config.json has no rotary_base, so 10,000 is taken, as the format says. ModelOpt beside transformers 5 "
    "leaves it out whatever the model's is: if the model's config.json has another rope_theta, write that as "
    "rotary_base."
)
# How the format calls linear biases in place of positions: beside scaled products, or scaled with them.
LINEAR_BIASES = ("alibi", "alibi_with_scale")


# How it calls positions that numbers for distances alone tell.
DISTANCES = "relative"


def _positions(family: Family | None) -> tuple[str, ...]:
    """How a checkpoint of this family may say where its tokens are."""
    if family is not None and family.learned_positions:
        return ("learned_absolute",)
    if family is not None and family.distances:
        return (DISTANCES,)
    if family is None or family.alibi is False:
        return _POSITIONS
    biases = (LINEAR_BIASES[family.alibi_rounded],)
    return biases if family.alibi is True else (*_POSITIONS, *biases)


def unsupported(config: CheckpointConfig) -> list[str]:
    """What this config asks for that a network of this project cannot express; empty when all is well."""
    family = next((row for row in EVERY_FAMILY if row.architecture == config.architecture), None)
    known = ", ".join(row.architecture for row in EVERY_FAMILY)
    checks = (
        (family is None, f"architecture {config.architecture!r} (supported: {known})"),
        (
            family is not None and family.ours_alone and config.inflight is None,
            f"{config.architecture} of another writer, which keeps what its layers do elsewhere",
        ),
        (
            family is not None and family.encoder and config.pooling is None,
            f"{config.architecture} without inflight.pooling, which says what becomes of its hidden states",
        ),
        (config.dtype not in FLOAT_DTYPES, f"dtype {config.dtype!r}"),
        (
            config.hidden_act not in ACTIVATIONS,
            f"hidden_act {config.hidden_act!r} (supported: {', '.join(ACTIVATIONS)})",
        ),
        (
            config.hidden_act == "xielu" and family is not None and ACT not in family.names,
            f"hidden_act 'xielu' in {config.architecture}, whose layers have no numbers for it",
        ),
        (
            config.position_embedding_type not in _positions(family),
            f"position_embedding_type {config.position_embedding_type!r}",
        ),
        (
            family is not None and config.inter_layernorms not in (None, family.sandwich_norms),
            f"inter_layernorms {config.inter_layernorms} in {config.architecture}",
        ),
        (config.has_experts and not _takes_experts(config), f"a mixture of experts in {config.architecture}"),
        (config.head_size % 2 != 0 and not _is_latent(family), f"an odd head_size ({config.head_size})"),
        (config.num_attention_heads % config.num_key_value_heads != 0, "query heads not a multiple of key-value heads"),
        (config.mapping.cp_size != 1, "context parallelism (cp_size > 1)"),
    )
    reasons = [reason for wrong, reason in checks if wrong]
    reasons += [] if config.moe is None else config.moe.problems()
    return (
        reasons
        + _rotary_problems(config)
        + _layer_problems(config)
        + _expert_problems(config)
        + (_latent_problems(config) if _is_latent(family) else [])
        + config.module_quantization.problems()
    )


def _is_latent(family: Family | None) -> bool:
    return family is not None and family.latent


def _latent_problems(config: CheckpointConfig) -> list[str]:
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    if missing := [name for name in names if getattr(config, name) is None]:
        return [f"latent attention without {', '.join(missing)}"]
    plain, rotary = config.qk_nope_head_dim, config.qk_rope_head_dim
    checks = (
        (config.head_size != (plain or 0) + (rotary or 0), f"head_size {config.head_size}, not {plain} + {rotary}"),
        (config.rotary_embedding_dim != rotary, f"rotary_embedding_dim {config.rotary_embedding_dim}, not {rotary}"),
        (config.num_key_value_heads != 1, f"{config.num_key_value_heads} key-value heads of latent attention"),
    )
    return [problem for wrong, problem in checks if wrong]


def _takes_experts(config: CheckpointConfig) -> bool:
    return any(family.mixture for family in FAMILIES if family.architecture == config.architecture)


def _expert_problems(config: CheckpointConfig) -> list[str]:
    dense = config.mlp_only_layers or ()
    problems = [f"mlp_only_layers {list(dense)}"] if any(not 0 <= i < config.num_hidden_layers for i in dense) else []
    if not config.has_experts or problems:
        return problems
    layers = [layer for layer in range(config.num_hidden_layers) if layer not in dense]
    if config.module_quantization.problems():
        return []
    router = f"transformer.layers.{layers[0]}.mlp.router" if layers else ""
    if layers and config.quantization_of(router) is not None:
        problems.append(f"{router} quantized: routers are float32")
    for layer, name in product(layers, EXPERTS):
        module, partner = (f"transformer.layers.{layer}.mlp.{each}" for each in (name, EXPERTS[name == EXPERTS[0]]))
        reason = _stack_problem(config.quantization_of(module), config.quantization_of(partner))
        if reason is not None:
            return [*problems, f"{module}: {reason}"]
    return problems


def _stack_problem(found: WeightQuantization | None, other: WeightQuantization | None) -> str | None:
    """Why no stack of experts is quantized so beside the other one of its layer; None where it may be."""
    if found is None:
        return None
    if found.scaled_inputs:
        return "experts whose rows have factors"
    if found.row_limits is not None:
        return "experts whose rows are cut (clamp_val)"
    if (reason := stack_problem(found.scheme)) is not None:
        return reason
    if other is None:
        return "quantized experts beside plain ones in the same layer"
    return None if alike(found.scheme, other.scheme) else "8-bit floats beside integers in the experts of one layer"


def _rotary_problems(config: CheckpointConfig) -> list[str]:
    dim, size, scaling = config.rotary_embedding_dim, config.head_size, config.rotary_scaling
    problems = []
    if dim is not None and (not 0 < dim <= size or dim % 2):
        problems.append(f"rotary_embedding_dim {dim} (an even number up to head_size {size})")
    if config.position_embedding_type == "long_rope" and (scaling is None or scaling.rope_type != "longrope"):
        problems.append("position_embedding_type 'long_rope' without longrope_scaling_short_factors")
    if config.position_embedding_type == "yarn" and (scaling is None or scaling.rope_type != "yarn"):
        problems.append("position_embedding_type 'yarn' without a rotary_scaling of that type")
    local = config.inflight.local_rotary_scaling if config.inflight else None
    for found, base in ((scaling, config.rotary_base), (local, config.rope_local_base_freq or 0)):
        problems += [] if found is None else _scaling_problems(found, dim or size, base, config.max_position_embeddings)
    return problems


def _scaling_problems(scaling: RotaryScaling, dim: int, base: float, positions: int | None) -> list[str]:
    problems = []
    for name in ("short_factor", "long_factor"):
        factors = getattr(scaling, name)
        if factors is not None and len(factors) != dim // 2:
            problems.append(f"{len(factors)} numbers in {name} for {dim // 2} frequencies")
    if scaling.rope_type == "dynamic" and positions is None:
        problems.append("rope type 'dynamic' without max_position_embeddings, up to which frequencies are unscaled")
    if scaling.rope_type == "yarn" and base <= 1:
        problems.append(f"rope type 'yarn' with a rotary base of {base:g}, which must be above 1")
    return problems


def _layer_problems(config: CheckpointConfig) -> list[str]:
    if config.inflight is None:
        return []
    types, problems = config.inflight.layer_types or (), []
    if any(not 0 <= index < config.num_hidden_layers for index in config.inflight.layers_without_rope or ()):
        problems.append(f"layers_without_rope {list(config.inflight.layers_without_rope or ())}")
    if types and len(types) != config.num_hidden_layers:
        problems.append(f"{len(types)} layer_types for {config.num_hidden_layers} layers")
    if "chunked_attention" in types and config.inflight.attention_chunk is None:
        problems.append("layer_types with 'chunked_attention' without attention_chunk")
    if "sliding_attention" in types and config.inflight.sliding_window is None:
        problems.append("layer_types with 'sliding_attention' without sliding_window")
    return problems


def activation(config: CheckpointConfig) -> Activation:
    """What a supported config's hidden_act is. Without our block it was written for a reader whose gelu has a tanh."""
    if config.hidden_act == "gelu" and config.inflight is None:
        return "gelu_tanh"
    return ACTIVATIONS[config.hidden_act]


def doubts_about(config: CheckpointConfig) -> list[str]:
    """What a supported config leaves out that its writer may have lost, a sentence each."""
    turns = config.position_embedding_type in _POSITIONS
    return [_BASE_MISSING] if turns and "rotary_base" not in config.model_fields_set else []

"""Mixtures of experts: what their configs have beside the common keys, and the names of their tensors.

Per-expert names are those of files that transformers 4 wrote, and most models are still stored so. transformers 5 may
write stacks of all experts; `Mixture.stacks` says what each is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from inflight.convert.checkpoint.config import MAX_LAYERS as MOST_LAYERS
from inflight.convert.checkpoint.moe_facts import MOST_EXPERTS, RENORMALIZE, SPARSE_MIXER_EXPERTS, MoeFacts
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.rows.keys import granite_keys, refuse_other_head_size

Names = Mapping[str, tuple[str, ...]]
Row = TypeVar("Row")
_LAYER = "model.layers.{layer}."
NO_RENORMALIZATION, SPARSE_MIXER = 0, 2


# What mixtures have that is not known yet, by architecture.
MISSING: Mapping[str, str] = {
    "GptOssForCausalLM": "attention sinks, and experts with biases and a clamped activation, are not known",
    "Ernie4_5_MoeForCausalLM": "a bias that counts in the choice of experts and not in their weights is not known",
    "DeepseekV2ForCausalLM": "latent attention and experts in groups are not known",
    "DeepseekV3ForCausalLM": "latent attention and experts in groups are not known",
}


@dataclass(frozen=True, slots=True)
class Mixture:
    """How the source of a family holds what belongs to its experts, below its layers.

    `stacks`: a tensor that holds several modules -> their weights, the rows of one behind those of the other, and that
    for each {expert} where there is one. `renamed`: tensors under another name -> the name here.
    `gates_shared_expert`: what the shared expert yields is multiplied by a gate of its own.
    """

    stacks: Mapping[str, tuple[str, ...]]
    renamed: Mapping[str, str] = field(default_factory=dict)
    gates_shared_expert: bool = False


class _Expert(NamedTuple):
    """The modules of one expert."""

    gate: str
    up: str
    down: str

    def stacks(self, module: str) -> dict[str, tuple[str, ...]]:
        """The stacks that transformers 5 makes of them, in `module`."""
        return {
            f"{module}.gate_up_proj": (f"{self.gate}.weight", f"{self.up}.weight"),
            f"{module}.down_proj": (f"{self.down}.weight",),
        }

    def modules(self, router: str) -> dict[str, tuple[str, ...]]:
        """Modules of a mixture in the checkpoint -> those of the source; `fc` has what multiplies the gate first."""
        return {
            "experts.router": (f"{_LAYER}{router}",),
            "experts.fc": (f"{_LAYER}{self.up}", f"{_LAYER}{self.gate}"),
            "experts.proj": (f"{_LAYER}{self.down}",),
        }


_MIXTRAL = _Expert(*(f"block_sparse_moe.experts.{{expert}}.{name}" for name in ("w1", "w3", "w2")))
_QWEN = _Expert(*(f"mlp.experts.{{expert}}.{name}_proj" for name in ("gate", "up", "down")))
_GRANITE = _Expert(*(f"block_sparse_moe.experts.{{expert}}.{name}_proj" for name in ("gate", "up", "down")))


def _shared(module: str) -> dict[str, tuple[str, ...]]:
    pairs = (("fc", "gate"), ("gate", "up"), ("proj", "down"))
    return {f"mlp.shared_expert.{ours}": (f"{_LAYER}{module}.{theirs}_proj",) for ours, theirs in pairs}


def _granite_mixture() -> Mixture:
    experts = _GRANITE.stacks("block_sparse_moe.experts")
    shared = tuple(f"shared_mlp.{name}_proj.weight" for name in ("gate", "up"))
    return Mixture(
        {
            **experts,
            "block_sparse_moe.input_linear.weight": experts["block_sparse_moe.experts.gate_up_proj"],
            "block_sparse_moe.output_linear.weight": experts["block_sparse_moe.experts.down_proj"],
            "shared_mlp.input_linear.weight": shared,
            "shared_mlp.output_linear.weight": ("shared_mlp.down_proj.weight",),
        },
        {"block_sparse_moe.router.weight": "block_sparse_moe.router.layer.weight"},
    )


def mixtral_keys(values: ConfigValues) -> dict[str, Any]:
    return {"moe": _moe(values, RENORMALIZE)}


def phimoe_keys(values: ConfigValues) -> dict[str, Any]:
    """Two experts by the sparse mixer, whatever num_experts_per_tok says, as transformers has it."""
    values.refuse("lm_head_bias", "the vocabulary projection has no bias here")
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
    return {"moe": _moe(values, RENORMALIZE if values.flag("norm_topk_prob") else NO_RENORMALIZATION)}


def _count_of_experts(values: ConfigValues) -> Any:
    """num_experts, which transformers also calls num_local_experts."""
    raw = values.raw
    return raw["num_local_experts"] if raw.get("num_local_experts") is not None else raw.get("num_experts")


def _moe(values: ConfigValues, mode: int, **further: Any) -> MoeFacts:
    key = "num_local_experts" if values.raw.get("num_local_experts") is not None else "num_experts"
    count, top_k = values.count(key, most=MOST_EXPERTS), values.count("num_experts_per_tok", most=MOST_EXPERTS)
    return MoeFacts(num_experts=count, top_k=top_k, normalization_mode=mode, **further)


_MIXTRAL_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_QWEN3_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
_QWEN2_DEFAULTS: Mapping[str, Any] = {
    "qkv_bias": True,
    "num_key_value_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
}
_PHIMOE_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_local_experts": 16,
    "num_experts_per_tok": 2,
    "router_jitter_noise": 0.01,
}
_OLMOE_DEFAULTS: Mapping[str, Any] = {
    "rms_norm_eps": 1e-5,
    "num_experts": 64,
    "num_experts_per_tok": 8,
}
_GRANITE_COLUMNS: Mapping[str, Any] = {
    "qkv_bias": "attention_bias",
    "dense_bias": "attention_bias",
    "keys": granite_moe_keys,
    "mixture": _granite_mixture(),
    "defaults": {"num_local_experts": 8, "num_experts_per_tok": 2},
}


def mixtures(family: Callable[..., Row], names: Names) -> tuple[Row, ...]:
    """The rows of the family table, made by `family`; `names` are those of a decoder without experts."""
    granite = {**names, **_GRANITE.modules("block_sparse_moe.router.layer"), **_shared("shared_mlp")}
    return (
        family(
            architecture="MixtralForCausalLM",
            model_type="mixtral",
            sliding_window="always",
            keys=mixtral_keys,
            mixture=Mixture(_MIXTRAL.stacks("mlp.experts"), {"mlp.gate.weight": "block_sparse_moe.gate.weight"}),
            names={**names, **_MIXTRAL.modules("block_sparse_moe.gate")},
            defaults=_MIXTRAL_DEFAULTS,
        ),
        family(
            architecture="Qwen3MoeForCausalLM",
            model_type="qwen3_moe",
            qkv_bias="attention_bias",
            dense_bias="attention_bias",
            qk_norm=True,
            keys=qwen_keys,
            mixture=Mixture(_QWEN.stacks("mlp.experts")),
            names={**names, **_QWEN.modules("mlp.gate")},
            defaults=_QWEN3_DEFAULTS,
        ),
        family(
            architecture="Qwen2MoeForCausalLM",
            model_type="qwen2_moe",
            qkv_bias="qkv_bias",
            keys=qwen2_keys,
            mixture=Mixture(_QWEN.stacks("mlp.experts"), gates_shared_expert=True),
            names={
                **names,
                **_QWEN.modules("mlp.gate"),
                **_shared("mlp.shared_expert"),
                "experts.shared_expert_gate": (f"{_LAYER}mlp.shared_expert_gate",),
            },
            defaults=_QWEN2_DEFAULTS,
        ),
        family(
            architecture="PhimoeForCausalLM",
            model_type="phimoe",
            qkv_bias="attention_bias",
            dense_bias="attention_bias",
            sliding_window="always",
            norm="layer",
            keys=phimoe_keys,
            mixture=Mixture(_MIXTRAL.stacks("mlp.experts"), {"mlp.router.weight": "block_sparse_moe.gate.weight"}),
            names={**names, **_MIXTRAL.modules("block_sparse_moe.gate")},
            defaults=_PHIMOE_DEFAULTS,
        ),
        family(
            architecture="OlmoeForCausalLM",
            model_type="olmoe",
            qkv_bias="attention_bias",
            dense_bias="attention_bias",
            qk_norm=True,
            qk_norm_width=True,
            keys=olmoe_keys,
            mixture=Mixture(_QWEN.stacks("mlp.experts")),
            names={**names, **_QWEN.modules("mlp.gate")},
            defaults=_OLMOE_DEFAULTS,
        ),
        family(architecture="GraniteMoeForCausalLM", model_type="granitemoe", **_GRANITE_COLUMNS, names=granite),
        family(
            architecture="GraniteMoeSharedForCausalLM", model_type="granitemoeshared", **_GRANITE_COLUMNS, names=granite
        ),
    )

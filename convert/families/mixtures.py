"""Mixtures of experts: the rows of their families, and the names of their tensors.

Per-expert names are those of files that transformers 4 wrote, and most models are still stored so. transformers 5 may
write stacks of all experts; `Mixture.stacks` says what each is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from inflight.convert.families import mixture_keys as keys
from inflight.convert.families.names import ROTARY_TABLES

Names = Mapping[str, tuple[str, ...]]
Row = TypeVar("Row")
_LAYER = "model.layers.{layer}."
_CHOICE = "e_score_correction_bias"
_ERNIE_BIAS = f"moe_statics.{_CHOICE}"


@dataclass(frozen=True, slots=True)
class Mixture:
    """How the source of a family holds what belongs to its experts, below its layers.

    `stacks`: a tensor that holds several modules -> their weights, the rows of one behind those of the other, and that
    for each {expert} where there is one. `renamed`: tensors under another name -> the name here.
    `gates_shared_expert`: what the shared expert yields is multiplied by a gate of its own. `alternates`: stacks are
    (experts, in, out), and their outputs those of the modules in turn; `transposed`: those of one behind those of
    the other. `bias`, `clamped`: of ExpertsSpec.
    `biased_choice`: a bias counts in the choice of experts alone. `predicts_further`: files have layers behind the last
    one that predict further tokens.
    """

    stacks: Mapping[str, tuple[str, ...]]
    renamed: Mapping[str, str] = field(default_factory=dict)
    gates_shared_expert: bool = False
    alternates: bool = False
    transposed: bool = False
    biased_choice: bool = False
    predicts_further: bool = False
    bias: bool = False
    clamped: bool = False


class Expert(NamedTuple):
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


MIXTRAL_EXPERTS = Expert(*(f"block_sparse_moe.experts.{{expert}}.{name}" for name in ("w1", "w3", "w2")))
QWEN_EXPERTS = Expert(*(f"mlp.experts.{{expert}}.{name}_proj" for name in ("gate", "up", "down")))
_GRANITE = Expert(*(f"block_sparse_moe.experts.{{expert}}.{name}_proj" for name in ("gate", "up", "down")))


def shared_expert(module: str) -> dict[str, tuple[str, ...]]:
    pairs = (("fc", "gate"), ("gate", "up"), ("proj", "down"))
    return {f"mlp.shared_expert.{ours}": (f"{_LAYER}{module}.{theirs}_proj",) for ours, theirs in pairs}


def _gpt_oss_stacks() -> dict[str, tuple[str, ...]]:
    weights = QWEN_EXPERTS.stacks("mlp.experts")
    biases = {f"{stack}_bias": tuple(_bias_of(each) for each in parts) for stack, parts in weights.items()}
    return {**weights, **biases}


def _bias_of(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.bias"


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


_GRANITE_COLUMNS: Mapping[str, Any] = {
    "qkv_bias": "attention_bias",
    "dense_bias": "attention_bias",
    "keys": keys.granite_moe_keys,
    "mixture": _granite_mixture(),
    "defaults": {"num_local_experts": 8, "num_experts_per_tok": 2},
}


def mixtures(family: Callable[..., Row], names: Names) -> tuple[Row, ...]:
    """The rows of the family table, made by `family`; `names` are those of a decoder without experts."""
    granite = {**names, **_GRANITE.modules("block_sparse_moe.router.layer"), **shared_expert("shared_mlp")}
    return (
        family(
            architecture="MixtralForCausalLM",
            model_type="mixtral",
            sliding_window="always",
            keys=keys.mixtral_keys,
            mixture=Mixture(MIXTRAL_EXPERTS.stacks("mlp.experts"), {"mlp.gate.weight": "block_sparse_moe.gate.weight"}),
            names={**names, **MIXTRAL_EXPERTS.modules("block_sparse_moe.gate")},
            defaults=keys.MIXTRAL_DEFAULTS,
        ),
        family(
            architecture="Qwen3MoeForCausalLM",
            model_type="qwen3_moe",
            qkv_bias="attention_bias",
            dense_bias="attention_bias",
            qk_norm=True,
            keys=keys.qwen_keys,
            mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts")),
            names={**names, **QWEN_EXPERTS.modules("mlp.gate")},
            defaults=keys.QWEN3_DEFAULTS,
        ),
        family(
            architecture="Qwen2MoeForCausalLM",
            model_type="qwen2_moe",
            qkv_bias="qkv_bias",
            keys=keys.qwen2_keys,
            mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), gates_shared_expert=True),
            names={
                **names,
                **QWEN_EXPERTS.modules("mlp.gate"),
                **shared_expert("mlp.shared_expert"),
                "experts.shared_expert_gate": (f"{_LAYER}mlp.shared_expert_gate",),
            },
            defaults=keys.QWEN2_DEFAULTS,
        ),
        family(
            architecture="PhimoeForCausalLM",
            model_type="phimoe",
            qkv_bias="attention_bias",
            dense_bias="attention_bias",
            sliding_window="always",
            norm="layer",
            head_bias="lm_head_bias",
            keys=keys.phimoe_keys,
            mixture=Mixture(
                MIXTRAL_EXPERTS.stacks("mlp.experts"), {"mlp.router.weight": "block_sparse_moe.gate.weight"}
            ),
            names={**names, **MIXTRAL_EXPERTS.modules("block_sparse_moe.gate")},
            defaults=keys.PHIMOE_DEFAULTS,
        ),
        family(
            architecture="OlmoeForCausalLM",
            model_type="olmoe",
            qkv_bias="attention_bias",
            dense_bias="attention_bias",
            qk_norm=True,
            qk_norm_width=True,
            keys=keys.olmoe_keys,
            mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts")),
            names={**names, **QWEN_EXPERTS.modules("mlp.gate")},
            defaults=keys.OLMOE_DEFAULTS,
        ),
        family(
            architecture="Ernie4_5_MoeForCausalLM",
            model_type="ernie4_5_moe",
            interleaved_rope=True,
            keys=keys.ernie_keys,
            mixture=Mixture(
                QWEN_EXPERTS.stacks("mlp.experts"),
                {f"mlp.{_ERNIE_BIAS}": f"mlp.gate.{_CHOICE}", f"mlp.gate.{_ERNIE_BIAS}": f"mlp.gate.{_CHOICE}"},
                biased_choice=True,
            ),
            names={**names, **QWEN_EXPERTS.modules("mlp.gate"), **shared_expert("mlp.shared_experts")},
            ignored=(*ROTARY_TABLES, "model.mtp_*"),
            defaults=keys.ERNIE_DEFAULTS,
        ),
        family(
            architecture="Glm4MoeForCausalLM",
            model_type="glm4_moe",
            qkv_bias="attention_bias",
            qk_norm="use_qk_norm",
            partial_rotary=True,
            keys=keys.glm_keys,
            mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True, predicts_further=True),
            names={**names, **QWEN_EXPERTS.modules("mlp.gate"), **shared_expert("mlp.shared_experts")},
            defaults=keys.GLM_DEFAULTS,
        ),
        family(
            architecture="GptOssForCausalLM",
            model_type="gpt_oss",
            qkv_bias="attention_bias",
            dense_bias="attention_bias",
            sliding_window="listed",
            full_attention_every=2,
            sinks=True,
            keys=keys.gpt_oss_keys,
            mixture=Mixture(_gpt_oss_stacks(), alternates=True, bias=True, clamped=True),
            names={**names, **QWEN_EXPERTS.modules("mlp.router"), "attention": (f"{_LAYER}self_attn",)},
            defaults=keys.GPT_OSS_DEFAULTS,
        ),
        family(architecture="GraniteMoeForCausalLM", model_type="granitemoe", **_GRANITE_COLUMNS, names=granite),
        family(
            architecture="GraniteMoeSharedForCausalLM", model_type="granitemoeshared", **_GRANITE_COLUMNS, names=granite
        ),
    )

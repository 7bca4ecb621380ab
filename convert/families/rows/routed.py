"""Mixtures of experts whose parts other rows have already: attention of one, a router of another."""

from __future__ import annotations

from inflight.convert.families import routed_keys as keys
from inflight.convert.families.family import Family
from inflight.convert.families.mixture_keys import glm_keys, minimax_keys, softmax_keys
from inflight.convert.families.mixtures import MIXTRAL_EXPERTS, QWEN_EXPERTS, Mixture, shared_expert
from inflight.convert.families.names import DECODER_NAMES, ROTARY_TABLES, SANDWICH_NAMES

_SHARED = {**DECODER_NAMES, **QWEN_EXPERTS.modules("mlp.gate"), **shared_expert("mlp.shared_experts")}
_LAYER = "model.layers.{layer}."
_CHOICE = "e_score_correction_bias"


_MINIMAX_EXPERTS = Mixture(
    MIXTRAL_EXPERTS.stacks("mlp.experts"),
    {
        "mlp.gate.weight": "block_sparse_moe.gate.weight",
        **{f"{module}.{_CHOICE}": f"block_sparse_moe.gate.{_CHOICE}" for module in ("mlp", "block_sparse_moe")},
    },
    biased_choice=True,
)

ROUTED = (
    Family(
        architecture="Dots1ForCausalLM",
        model_type="dots1",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        sliding_window="switched",
        decoder=keys.dots_config,
        keys=glm_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True),
        names=_SHARED,
        defaults=keys.DOTS_DEFAULTS,
    ),
    Family(
        architecture="SolarOpenForCausalLM",
        model_type="solar_open",
        qkv_bias="attention_bias",
        partial_rotary=True,
        decoder=keys.solar_config,
        keys=keys.solar_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True),
        names=_SHARED,
        defaults=keys.SOLAR_DEFAULTS,
    ),
    Family(
        architecture="FlexOlmoForCausalLM",
        model_type="flex_olmo",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_width=True,
        post_norms=True,
        keys=softmax_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts")),
        names={**SANDWICH_NAMES, **QWEN_EXPERTS.modules("mlp.gate")},
        defaults={"num_experts": 7, "num_experts_per_tok": 5, "rope_theta": 5e5},
    ),
    Family(
        architecture="ExaoneMoeForCausalLM",
        model_type="exaone_moe",
        qk_norm=True,
        sliding_window="listed",
        full_attention_every="sliding_window_pattern",
        rope_in_windows=True,
        decoder=keys.exaone_moe_config,
        keys=keys.exaone_moe_keys,
        mixture=Mixture(
            QWEN_EXPERTS.stacks("mlp.experts"), {f"mlp.{_CHOICE}": f"mlp.gate.{_CHOICE}"}, biased_choice=True
        ),
        names=_SHARED,
        ignored=(*ROTARY_TABLES, "mtp.*"),
        defaults=keys.EXAONE_DEFAULTS,
    ),
    Family(
        architecture="MiniMaxM2ForCausalLM",
        model_type="minimax_m2",
        qk_norm=True,
        qk_norm_width=True,
        partial_rotary=True,
        decoder=keys.minimax_config,
        keys=minimax_keys,
        mixture=_MINIMAX_EXPERTS,
        names={**DECODER_NAMES, **MIXTRAL_EXPERTS.modules("block_sparse_moe.gate")},
        defaults=keys.MINIMAX_DEFAULTS,
    ),
    Family(
        architecture="HunYuanMoEV1ForCausalLM",
        model_type="hunyuan_v1_moe",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        qk_norm_last=True,
        decoder=keys.hunyuan_moe_config,
        keys=keys.hunyuan_moe_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts")),
        names={
            **DECODER_NAMES,
            "attention.q_layernorm": (f"{_LAYER}self_attn.query_layernorm",),
            "attention.k_layernorm": (f"{_LAYER}self_attn.key_layernorm",),
            **QWEN_EXPERTS.modules("mlp.gate.wg"),
            **shared_expert("mlp.shared_mlp"),
        },
        defaults={"rms_norm_eps": 1e-5},
    ),
    Family(
        architecture="HYV3ForCausalLM",
        model_type="hy_v3",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        decoder=keys.hy_config,
        keys=keys.hy_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), biased_choice=True, predicts_further=True),
        names=_SHARED,
        renamed=(
            (".mlp.router.gate.", ".mlp.gate."),
            (".mlp.shared_mlp.", ".mlp.shared_experts."),
            *((f".mlp.{name}", f".mlp.gate.{_CHOICE}") for name in ("expert_bias", _CHOICE)),
        ),
        defaults=keys.HY_DEFAULTS,
    ),
    Family(
        architecture="MellumForCausalLM",
        model_type="mellum",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        sliding_window="listed",
        full_attention_every=1,
        rope_by_layer_type=True,
        decoder=keys.mellum_config,
        keys=keys.mellum_keys,
        mixture=Mixture(QWEN_EXPERTS.stacks("mlp.experts"), predicts_further=True),
        names={**DECODER_NAMES, **QWEN_EXPERTS.modules("mlp.gate")},
        ignored=(*ROTARY_TABLES, "mtp.*"),
        defaults=keys.MELLUM_DEFAULTS,
    ),
)

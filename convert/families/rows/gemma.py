"""The Gemmas."""

from __future__ import annotations

from inflight.convert.families.family import Family
from inflight.convert.families.names import DECODER_NAMES, SANDWICH_NAMES
from inflight.convert.families.rows.gemma_keys import (
    GEMMA2_DEFAULTS,
    GEMMA3_DEFAULTS,
    GEMMA_DEFAULTS,
    gemma2_keys,
    gemma3_config,
    gemma3_keys,
    gemma_config,
    gemma_keys,
    vault_keys,
)

GEMMA = (
    Family(
        architecture="GemmaForCausalLM",
        model_type="gemma",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        decoder=gemma_config,
        keys=gemma_keys,
        norm_offset=1.0,
        scaled_embedding=True,
        defaults=GEMMA_DEFAULTS,
    ),
    Family(
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        sliding_window="listed",
        full_attention_every=2,
        activation="hidden_activation",
        keys=gemma2_keys,
        norm_offset=1.0,
        sandwich_norms=True,
        scaled_embedding=True,
        names=SANDWICH_NAMES,
        defaults=GEMMA2_DEFAULTS,
    ),
    Family(
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        bidirectional="use_bidirectional_attention",
        sliding_window="listed",
        full_attention_every="sliding_window_pattern",
        decoder=gemma3_config,
        activation="hidden_activation",
        keys=gemma3_keys,
        rope_by_layer_type=True,
        norm_offset=1.0,
        sandwich_norms=True,
        scaled_embedding=True,
        names=SANDWICH_NAMES,
        defaults=GEMMA3_DEFAULTS,
    ),
    Family(
        architecture="VaultGemmaForCausalLM",
        model_type="vaultgemma",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        sliding_window="listed",
        full_attention_every=2,
        activation="hidden_activation",
        keys=vault_keys,
        norm_offset=1.0,
        scaled_embedding=True,
        names={**DECODER_NAMES, "post_layernorm": ("model.layers.{layer}.pre_feedforward_layernorm",)},
        defaults=GEMMA2_DEFAULTS,
    ),
)

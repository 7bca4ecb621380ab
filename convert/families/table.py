"""The model families: one row each. docs/extending/adding_a_family.md explains the columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Module of the checkpoint -> Hugging Face modules, concatenated in this order. {layer} counts over the whole model.
DECODER_NAMES: Mapping[str, tuple[str, ...]] = {
    "vocab_embedding": ("model.embed_tokens",),
    "input_layernorm": ("model.layers.{layer}.input_layernorm",),
    "attention.qkv": (
        "model.layers.{layer}.self_attn.q_proj",
        "model.layers.{layer}.self_attn.k_proj",
        "model.layers.{layer}.self_attn.v_proj",
    ),
    "attention.q_layernorm": ("model.layers.{layer}.self_attn.q_norm",),
    "attention.k_layernorm": ("model.layers.{layer}.self_attn.k_norm",),
    "attention.dense": ("model.layers.{layer}.self_attn.o_proj",),
    "post_layernorm": ("model.layers.{layer}.post_attention_layernorm",),
    # The checkpoint calls the activated branch `fc`, and the branch that multiplies it `gate`.
    "mlp.fc": ("model.layers.{layer}.mlp.gate_proj",),
    "mlp.gate": ("model.layers.{layer}.mlp.up_proj",),
    "mlp.proj": ("model.layers.{layer}.mlp.down_proj",),
    "ln_f": ("model.norm",),
    "lm_head": ("lm_head",),
}
# Tables that old versions of transformers saved; they follow from the config.
ROTARY_TABLES = ("model.rotary_emb.inv_freq", "model.layers.*.self_attn.rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of Hugging Face transformers, in terms of the decoder that the checkpoint describes.

    A bias is present (True), absent (False), or decided by the config key that is named. `sliding_window`: the key of
    that name applies never, always when it is not null, or only when use_sliding_window is set. `defaults` are the
    values that transformers assumes for keys that are absent from config.json. `ignored` are patterns of source
    tensors that are left out on purpose.
    """

    architecture: str
    model_type: str
    qkv_bias: bool | str = False
    dense_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False
    sliding_window: Literal["never", "always", "switched"] = "never"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: DECODER_NAMES)
    ignored: tuple[str, ...] = ROTARY_TABLES
    # Ignored as well when the config ties it to the embedding.
    tied: str = "lm_head.weight"


FAMILIES = (
    Family(
        architecture="LlamaForCausalLM",
        model_type="llama",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    Family(
        architecture="MistralForCausalLM",
        model_type="mistral",
        sliding_window="always",
        defaults={"sliding_window": 4096, "num_key_value_heads": 8},
    ),
    Family(
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        qkv_bias=True,
        sliding_window="switched",
        defaults={"sliding_window": 4096, "max_window_layers": 28, "num_key_value_heads": 32},
    ),
    Family(
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        qk_norm=True,
        sliding_window="switched",
        defaults={"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28, "num_key_value_heads": 32},
    ),
)


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The architectures that a Hugging Face config lists; empty when it lists none."""
    listed = config.get("architectures")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a Hugging Face config: by its architecture, or by model_type where it lists none."""
    listed = architectures(config)
    for family in FAMILIES:
        if family.architecture in listed or (not listed and family.model_type == config.get("model_type")):
            return family
    return None

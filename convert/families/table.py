"""The model families: one row each. docs/extending/adding_a_family.md explains the columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.gemma import GEMMA2_DEFAULTS, GEMMA3_DEFAULTS, gemma2_keys, gemma3_keys
from inflight.convert.families.mixtures import Mixture, mixtures
from inflight.convert.families.others import granite_keys, smollm3_keys, stablelm_keys

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
# Norms before and after attention and MLP, as Gemma has them since its second version.
SANDWICH_NAMES: Mapping[str, tuple[str, ...]] = {
    **DECODER_NAMES,
    "pre_feedforward_layernorm": ("model.layers.{layer}.pre_feedforward_layernorm",),
    "post_feedforward_layernorm": ("model.layers.{layer}.post_feedforward_layernorm",),
}
STARCODER2_NAMES: Mapping[str, tuple[str, ...]] = {
    **DECODER_NAMES,
    "mlp.fc": ("model.layers.{layer}.mlp.c_fc",),
    "mlp.proj": ("model.layers.{layer}.mlp.c_proj",),
}
STARCODER2_DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "use_bias": True,
    "norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
# Tables that old versions of transformers saved; they follow from the config.
ROTARY_TABLES = ("model.rotary_emb.inv_freq", "model.layers.*.self_attn.rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of Hugging Face transformers, in terms of the decoder that the checkpoint describes.

    A bias is present (True), absent (False), or decided by the config key that is named. `sliding_window`: the key of
    that name applies never, always when it is not null, only when use_sliding_window is set, or in the layers that
    layer_types lists; `full_attention_every`: of so many layers (or the key that says how many) the last has no window
    where layer_types is absent. `activation` is the key that names it; `keys` reads what only this family has into keys
    of the checkpoint.

    `rope_by_layer_type`: sliding and full layers have rotary parameters of their own; `partial_rotary`:
    partial_rotary_factor says how much of a head turns; `skips_rope`: no_rope_layers says which layers have no rotary
    embedding. `norm` is the kind of all norms ("layer" has a bias), `norm_epsilon` the key of its epsilon, and
    `norm_offset` is added to the weights of norms, which the checkpoint holds with it; `sandwich_norms`: attention and
    MLP have a norm after them too. `scaled_embedding`: embeddings are multiplied by the square root of the hidden size.
    `gated_mlp`: a second product multiplies the activated one.

    `defaults` are the values that transformers assumes for keys that are absent from config.json. `names` are the
    source's modules, `ignored` patterns of source tensors that are left out on purpose. `mixture`: the layers have
    experts.
    """

    architecture: str
    model_type: str
    qkv_bias: bool | str = False
    dense_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False
    sliding_window: Literal["never", "always", "switched", "listed"] = "never"
    full_attention_every: int | str | None = None
    activation: str = "hidden_act"
    keys: Callable[[ConfigValues], dict[str, Any]] = lambda _: {}
    rope_by_layer_type: bool = False
    partial_rotary: bool = False
    skips_rope: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norm_epsilon: str = "rms_norm_eps"
    norm_offset: float = 0.0
    sandwich_norms: bool = False
    scaled_embedding: bool = False
    gated_mlp: bool = True
    mixture: Mixture | None = None
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
        architecture="MinistralForCausalLM",
        model_type="ministral",
        sliding_window="listed",
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
        sliding_window="listed",
        full_attention_every="sliding_window_pattern",
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
        architecture="GraniteForCausalLM",
        model_type="granite",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        keys=granite_keys,
    ),
    Family(
        architecture="SmolLM3ForCausalLM",
        model_type="smollm3",
        qkv_bias="attention_bias",
        dense_bias="attention_bias",
        mlp_bias="mlp_bias",
        keys=smollm3_keys,
        skips_rope=True,
        defaults={
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "no_rope_layer_interval": 4,
            "tie_word_embeddings": True,
        },
    ),
    Family(
        architecture="StableLmForCausalLM",
        model_type="stablelm",
        qkv_bias="use_qkv_bias",
        keys=stablelm_keys,
        partial_rotary=True,
        norm="layer",
        norm_epsilon="layer_norm_eps",
        defaults={"num_key_value_heads": 32, "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5},
    ),
    Family(
        architecture="Starcoder2ForCausalLM",
        model_type="starcoder2",
        qkv_bias="use_bias",
        dense_bias="use_bias",
        mlp_bias="use_bias",
        sliding_window="always",
        norm="layer",
        norm_epsilon="norm_epsilon",
        gated_mlp=False,
        names=STARCODER2_NAMES,
        defaults=STARCODER2_DEFAULTS,
    ),
    *mixtures(Family, DECODER_NAMES),
)


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The architectures that a Hugging Face config lists; empty when it lists none."""
    listed = config.get("architectures")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def family_of(architecture: str) -> Family:
    """The row of a supported architecture."""
    return next(family for family in FAMILIES if family.architecture == architecture)


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a Hugging Face config: by its architecture, or by model_type where it lists none."""
    listed = architectures(config)
    for family in FAMILIES:
        if family.architecture in listed or (not listed and family.model_type == config.get("model_type")):
            return family
    return None

"""Encoders of Llama's kind: ModernBERT (Warner et al., 2024), whose windows look both ways, and EuroBERT (Boizard et
al., 2025)."""

from __future__ import annotations

from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.fused import gate_up, qkv_in_turn
from inflight.convert.families.names import DECODER_NAMES, ROTARY_TABLES, Names, parts
from inflight.convert.families.rows.encoders.keys import refuse_other
from inflight.convert.families.rows.keys import Raw, refuse_other_head_size, under_names

_LAYER = "model.layers.{layer}."
_QKV, _GATE_UP = f"{_LAYER}attn.Wqkv", f"{_LAYER}mlp.Wi"
_NAMES: Names = {
    "vocab_embedding": ("model.embeddings.tok_embeddings",),
    "ln_embed": ("model.embeddings.norm",),
    "input_layernorm": (f"{_LAYER}attn_norm",),
    "attention.qkv": parts(_QKV, "q", "k", "v"),
    "attention.dense": (f"{_LAYER}attn.Wo",),
    "post_layernorm": (f"{_LAYER}mlp_norm",),
    "mlp.fc": parts(_GATE_UP, "gate"),
    "mlp.gate": parts(_GATE_UP, "up"),
    "mlp.proj": (f"{_LAYER}mlp.Wo",),
    "ln_f": ("model.final_norm",),
    "classifier.dense": ("head.dense",),
    "classifier.norm": ("head.norm",),
    "classifier.out": ("classifier",),
}


def modernbert_config(raw: Raw) -> Raw:
    """Windows reach half of local_attention to each side; parameters of rotation went by other names before."""
    named = under_names(raw, rope_theta="global_rope_theta", rope_local_base_freq="local_rope_theta")
    window = raw.get("local_attention", 128)
    seen = window // 2 + 1 if isinstance(window, int) and not isinstance(window, bool) else window
    return {**named, "num_key_value_heads": None, "sliding_window": seen}


def modernbert_keys(values: ConfigValues) -> dict[str, Any]:
    """Its head: a product, gelu, a norm, and the product that scores."""
    refuse_other_head_size(values)
    values.refuse("rope_scaling", "rotation is scaled by rope_parameters, of each kind of layers")
    values.refuse("norm_bias", "norms have no biases here")
    values.refuse("classifier_bias", "the first product of the head has no bias here")
    if "num_labels" in values.raw or "id2label" in values.raw:
        refuse_other(values, "classifier_activation", "gelu", "the head has a gelu")
    return {}


MODERNBERT = Family(
    architecture="ModernBertModel",
    model_type="modernbert",
    qkv_bias="attention_bias",
    dense_bias="attention_bias",
    mlp_bias="mlp_bias",
    sliding_window="listed",
    full_attention_every="global_attn_every_n_layers",
    full_attention_first=True,
    rope_by_layer_type=True,
    activation="hidden_activation",
    norm="layer",
    norm_bias=False,
    norm_epsilon="norm_eps",
    embedding_norm=True,
    bare_first=True,
    encoder=True,
    classifier_activation="gelu",
    classifier_pooling=("cls", "mean"),
    token_head=True,
    decoder=modernbert_config,
    keys=modernbert_keys,
    names=_NAMES,
    fused={_QKV: qkv_in_turn, _GATE_UP: gate_up},
    renamed=tuple((f"{name}.", f"model.{name}.") for name in ("embeddings", "layers", "final_norm")),
    ignored=("head.*", "decoder.*", "lm_head.*"),
    defaults={
        "hidden_activation": "gelu",
        "classifier_pooling": "cls",
        "norm_eps": 1e-5,
        "global_attn_every_n_layers": 3,
        "rope_theta": 160000.0,
        "rope_local_base_freq": 10000.0,
        "max_position_embeddings": 8192,
    },
)

# Llama whose tokens see all others. Its scores are a mean of those of all tokens unless the config says otherwise.
EUROBERT = Family(
    architecture="EuroBertModel",
    model_type="eurobert",
    qkv_bias="attention_bias",
    dense_bias="attention_bias",
    mlp_bias="mlp_bias",
    encoder=True,
    carries_code=True,
    classifier_activation="gelu",
    classifier_pooling=("bos", "mean", "late"),
    names={**DECODER_NAMES, "classifier.dense": ("dense",), "classifier.out": ("classifier",)},
    renamed=tuple((f"{name}.", f"model.{name}.") for name in ("embed_tokens", "layers", "norm")),
    ignored=(*ROTARY_TABLES, "lm_head.*"),
    defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "classifier_pooling": "late"},
)

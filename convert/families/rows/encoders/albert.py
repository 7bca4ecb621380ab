"""ALBERT (Lan et al., 2020): BERT whose layers are one, and whose embeddings are narrower."""

from __future__ import annotations

from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.names import Names
from inflight.convert.families.rows.encoders.bert import BERT_DEFAULTS, IGNORED, bare, bert_encoder
from inflight.convert.families.rows.encoders.keys import encoder_keys, narrower_embeddings, refuse_other

_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0."
_ATTENTION, _EMBEDDINGS = f"{_LAYER}attention.", "albert.embeddings."
# The modules of every layer are the same ones.
_NAMES: Names = {
    "vocab_embedding": (f"{_EMBEDDINGS}word_embeddings",),
    "position_embedding": (f"{_EMBEDDINGS}position_embeddings",),
    "token_type_embedding": (f"{_EMBEDDINGS}token_type_embeddings",),
    "ln_embed": (f"{_EMBEDDINGS}LayerNorm",),
    "embedding_projection": ("albert.encoder.embedding_hidden_mapping_in",),
    "attention.qkv": (f"{_ATTENTION}query", f"{_ATTENTION}key", f"{_ATTENTION}value"),
    "attention.dense": (f"{_ATTENTION}dense",),
    "post_layernorm": (f"{_ATTENTION}LayerNorm",),
    "mlp.fc": (f"{_LAYER}ffn",),
    "mlp.proj": (f"{_LAYER}ffn_output",),
    "post_feedforward_layernorm": (f"{_LAYER}full_layer_layer_norm",),
    "classifier.dense": ("albert.pooler",),
    "classifier.out": ("classifier",),
}


def albert_keys(values: ConfigValues) -> dict[str, Any]:
    for key in ("num_hidden_groups", "inner_group_num"):
        refuse_other(values, key, 1, "all layers share one set of weights")
    return encoder_keys(values)


def albert_facts(values: ConfigValues) -> dict[str, Any]:
    """The product behind the embedding is there whatever its width."""
    return {**narrower_embeddings(values), "embedding_size": values.count("embedding_size")}


ALBERT = bert_encoder(
    "AlbertModel",
    "albert",
    keys=albert_keys,
    facts=albert_facts,
    classifier_activation="tanh",
    names=_NAMES,
    renamed=bare("albert.", "embeddings", "encoder", "pooler"),
    ignored=(*IGNORED, "albert.pooler.*", "predictions.*", "sop_classifier.*"),
    defaults={
        **BERT_DEFAULTS,
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
    },
)

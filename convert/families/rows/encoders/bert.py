"""Encoders: BERT (Devlin et al., 2018) and its relatives. MPNet (Song et al., 2020) knows distances."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.fused import skipping
from inflight.convert.families.names import Names, parts
from inflight.convert.families.rows.encoders.keys import (
    FIRST_POSITION,
    encoder_keys,
    mpnet_facts,
    narrower_embeddings,
    roberta_config,
    roberta_keys,
    token_types,
)
from inflight.convert.families.rows.keys import Raw, under_names

# Tensors that follow from the config, and heads that predict masked tokens or the next sentence.
IGNORED = ("*.position_ids", "*.token_type_ids", "cls.*", "lm_head.*", "vocab_*")
POOLER = ("*.pooler.*",)


def distilbert_config(raw: Raw) -> Raw:
    return under_names(
        raw,
        hidden_size="dim",
        num_hidden_layers="n_layers",
        num_attention_heads="n_heads",
        intermediate_size="hidden_dim",
        hidden_act="activation",
    )


def _mpnet_names(positions: tuple[str, ...]) -> Names:
    layer = "mpnet.encoder.layer.{layer}."
    return {
        "vocab_embedding": ("mpnet.embeddings.word_embeddings",),
        "position_embedding": positions,
        "relative_bias": ("mpnet.encoder.relative_attention_bias",),
        "ln_embed": ("mpnet.embeddings.LayerNorm",),
        "attention.qkv": tuple(f"{layer}attention.attn.{each}" for each in "qkv"),
        "attention.dense": (f"{layer}attention.attn.o",),
        "post_layernorm": (f"{layer}attention.LayerNorm",),
        "mlp.fc": (f"{layer}intermediate.dense",),
        "mlp.proj": (f"{layer}output.dense",),
        "post_feedforward_layernorm": (f"{layer}output.LayerNorm",),
        "classifier.dense": ("classifier.dense",),
        "classifier.out": ("classifier.out_proj",),
    }


def bert_names(
    prefix: str, pooled: tuple[str, str] = ("bert.pooler.dense", "classifier"), positions: tuple[str, ...] | None = None
) -> Names:
    layer, embeddings = f"{prefix}encoder.layer.{{layer}}.", f"{prefix}embeddings."
    attention = f"{layer}attention.self."
    return {
        "vocab_embedding": (f"{embeddings}word_embeddings",),
        "position_embedding": positions or (f"{embeddings}position_embeddings",),
        "token_type_embedding": (f"{embeddings}token_type_embeddings",),
        "ln_embed": (f"{embeddings}LayerNorm",),
        "attention.qkv": (f"{attention}query", f"{attention}key", f"{attention}value"),
        "attention.dense": (f"{layer}attention.output.dense",),
        "post_layernorm": (f"{layer}attention.output.LayerNorm",),
        "mlp.fc": (f"{layer}intermediate.dense",),
        "mlp.proj": (f"{layer}output.dense",),
        "post_feedforward_layernorm": (f"{layer}output.LayerNorm",),
        "classifier.dense": (pooled[0],),
        "classifier.out": (pooled[1],),
    }


def _distilbert_names() -> Names:
    layer, embeddings = "distilbert.transformer.layer.{layer}.", "distilbert.embeddings."
    return {
        "vocab_embedding": (f"{embeddings}word_embeddings",),
        "position_embedding": (f"{embeddings}position_embeddings",),
        "ln_embed": (f"{embeddings}LayerNorm",),
        "attention.qkv": tuple(f"{layer}attention.{each}_lin" for each in "qkv"),
        "attention.dense": (f"{layer}attention.out_lin",),
        "post_layernorm": (f"{layer}sa_layer_norm",),
        "mlp.fc": (f"{layer}ffn.lin1",),
        "mlp.proj": (f"{layer}ffn.lin2",),
        "post_feedforward_layernorm": (f"{layer}output_layer_norm",),
        "classifier.dense": ("pre_classifier",),
        "classifier.out": ("classifier",),
    }


def bare(prefix: str, *modules: str) -> tuple[tuple[str, str], ...]:
    """Files of a model without a head have no name in front."""
    return tuple((f"{module}.", f"{prefix}{module}.") for module in modules)


BERT_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


# What all encoders here have in common.
bert_encoder = partial(
    Family,
    qkv_bias=True,
    dense_bias=True,
    mlp_bias=True,
    learned_positions=True,
    norm="layer",
    norm_epsilon="layer_norm_eps",
    embedding_norm=True,
    post_norms=True,
    gated_mlp=False,
    encoder=True,
    keys=encoder_keys,
    facts=token_types,
    ignored=(*IGNORED, *POOLER),
    defaults=BERT_DEFAULTS,
)


def _roberta(architecture: str, model_type: str) -> Family:
    table = "roberta.embeddings.position_embeddings"
    return bert_encoder(
        architecture,
        model_type,
        decoder=roberta_config,
        keys=roberta_keys,
        classifier_activation="tanh",
        names=bert_names("roberta.", ("classifier.dense", "classifier.out_proj"), parts(table, "used")),
        fused={table: skipping(FIRST_POSITION)},
        renamed=bare("roberta.", "embeddings", "encoder", "pooler"),
        defaults={**BERT_DEFAULTS, "vocab_size": 50265, "pad_token_id": 1},
    )


def _mpnet() -> Family:
    table = "mpnet.embeddings.position_embeddings"
    return bert_encoder(
        "MPNetModel",
        "mpnet",
        decoder=roberta_config,
        keys=roberta_keys,
        facts=mpnet_facts,
        classifier_activation="tanh",
        names=_mpnet_names(parts(table, "used")),
        fused={table: skipping(FIRST_POSITION)},
        renamed=bare("mpnet.", "embeddings", "encoder", "pooler"),
        defaults={**BERT_DEFAULTS, "vocab_size": 30527, "pad_token_id": 1},
    )


BERT_LIKE = (
    bert_encoder(
        "BertModel",
        "bert",
        classifier_activation="tanh",
        names=bert_names("bert."),
        renamed=bare("bert.", "embeddings", "encoder", "pooler"),
    ),
    _roberta("RobertaModel", "roberta"),
    _roberta("XLMRobertaModel", "xlm-roberta"),
    _roberta("CamembertModel", "camembert"),
    bert_encoder(
        "DistilBertModel",
        "distilbert",
        classifier_activation="relu",
        decoder=distilbert_config,
        norm_epsilon=1e-12,
        facts=lambda _: {},
        names=_distilbert_names(),
        renamed=bare("distilbert.", "embeddings", "transformer"),
        defaults={**BERT_DEFAULTS, "num_hidden_layers": 6},
    ),
    bert_encoder(
        "ElectraModel",
        "electra",
        facts=narrower_embeddings,
        classifier_activation="gelu",
        names={
            **bert_names("electra.", ("classifier.dense", "classifier.out_proj")),
            "embedding_projection": ("electra.embeddings_project",),
        },
        renamed=bare("electra.", "embeddings", "embeddings_project", "encoder"),
        ignored=(*IGNORED, *POOLER, "discriminator_predictions.*", "generator_*"),
        defaults={**BERT_DEFAULTS, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
        | {"embedding_size": 128},
    ),
    _mpnet(),
)

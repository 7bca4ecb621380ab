"""DeBERTa, second and third version (He et al., 2021): BERT's layers, whose attention knows distances alone."""

from __future__ import annotations

from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.names import Names, PositionRows
from inflight.convert.families.rows.encoders.bert import BERT_DEFAULTS, IGNORED, bare, bert_encoder
from inflight.convert.families.rows.encoders.keys import encoder_keys, refuse_other
from inflight.convert.families.rows.keys import Raw

_ENCODER = "deberta.encoder."
_LAYER = f"{_ENCODER}layer.{{layer}}."
_SELF = f"{_LAYER}attention.self."
# What is computed of the table and both projections of each layer.
_ROWS = f"{_ENCODER}rel_embeddings[layer {{layer}}, matrix {{expert}}]"
_NAMES: Names = {
    "vocab_embedding": ("deberta.embeddings.word_embeddings",),
    "token_type_embedding": ("deberta.embeddings.token_type_embeddings",),
    "ln_embed": ("deberta.embeddings.LayerNorm",),
    "attention.qkv": (f"{_SELF}query_proj", f"{_SELF}key_proj", f"{_SELF}value_proj"),
    "attention.positions": (_ROWS,),
    "attention.dense": (f"{_LAYER}attention.output.dense",),
    "post_layernorm": (f"{_LAYER}attention.output.LayerNorm",),
    "mlp.fc": (f"{_LAYER}intermediate.dense",),
    "mlp.proj": (f"{_LAYER}output.dense",),
    "post_feedforward_layernorm": (f"{_LAYER}output.LayerNorm",),
    "classifier.dense": ("pooler.dense",),
    "classifier.out": ("classifier",),
}
# Of queries with rows for distances, and of keys.
_TERMS = ("c2p", "p2c")
_NORM = "layer_norm"


def deberta_config(raw: Raw) -> Raw:
    """All heads have keys of their own."""
    return {**raw, "num_key_value_heads": None}


def deberta_keys(values: ConfigValues) -> dict[str, Any]:
    """A score is a sum of products, and scaled for as many of them as there are."""
    encoder_keys(values)
    heads, hidden = values.count("num_attention_heads"), values.count("hidden_size")
    if hidden % heads:
        values.problems.append(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    refuse_other(values, "attention_head_size", hidden // heads, "heads make up the hidden size")
    refuse_other(values, "embedding_size", hidden, "a product ahead of the norm of the embedding")
    refuse_other(values, "pooler_hidden_size", hidden, "the classifier reads a hidden state")
    refuse_other(values, "pooler_hidden_act", "gelu", "the classifier has a gelu")
    if values.raw.get("conv_kernel_size", 0) != 0:
        values.refuse("conv_kernel_size", "a convolution over tokens beside the first layer is not there")
    values.refuse("talking_head", "heads do not mix")
    values.refuse("position_biased_input", "there is no table of positions: distances alone tell them")
    if not values.flag("relative_attention"):
        values.problems.append("relative_attention false is not supported: nothing tells positions then")
    values.flag("share_att_key")
    return {"query_pre_attn_scalar": float((1 + len(_terms(values))) * max(hidden // heads, 1))}


def _terms(values: ConfigValues) -> tuple[str, ...]:
    """Which products there are beside that of query and key."""
    given = values.raw.get("pos_att_type")
    if not isinstance(given, str | list | None):
        values.problems.append(f"pos_att_type must be a text or a list, not {given!r}")
    terms = _words(given)
    if unknown := [term for term in terms if term not in _TERMS]:
        values.problems.append(f"pos_att_type {'|'.join(unknown)} is not supported: {' and '.join(_TERMS)} are")
    if not terms:
        values.problems.append("pos_att_type names none of c2p and p2c: nothing tells positions then")
    return tuple(term for term in _TERMS if term in terms)


def _words(value: Any) -> tuple[str, ...]:
    """Of a list, or a text with bars in between."""
    listed = value.lower().split("|") if isinstance(value, str) else value if isinstance(value, list) else ()
    return tuple(str(word).strip() for word in listed)


def deberta_facts(values: ConfigValues) -> dict[str, Any]:
    """Of distances and their buckets, and kinds of tokens if there are some."""
    norms = _words(values.raw.get("norm_rel_ebd"))
    if unknown := [name for name in norms if name not in (_NORM, "none")]:
        values.problems.append(f"norm_rel_ebd {'|'.join(unknown)} is not supported: {_NORM} is, and none")
    furthest, buckets = _limit(values, "max_relative_positions"), _limit(values, "position_buckets")
    furthest = furthest or values.count("max_position_embeddings")
    if buckets is not None and not 1 <= buckets // 2 < furthest - 1:
        values.problems.append(
            f"position_buckets {buckets} is not supported: half of it must be 1 or more, and less than "
            f"max_relative_positions ({furthest}) - 1"
        )
        values.shapes_known = False
    kinds = values.raw.get("type_vocab_size")
    return {
        "relative_span": buckets or furthest,
        "furthest_bucket": None if buckets is None else furthest,
        "token_types": None if kinds == 0 else values.count("type_vocab_size"),
    }


def _limit(values: ConfigValues, key: str) -> int | None:
    """A positive number; what is less, as -1, stands for none."""
    value = values.raw.get(key)
    none = value is None or (isinstance(value, int) and not isinstance(value, bool) and value < 1)
    return None if none else values.count(key)


def deberta_rows(raw: Raw) -> PositionRows:
    """Both rows are made by the layer's own projections, or by others."""
    terms, shared = _words(raw.get("pos_att_type")), bool(raw.get("share_att_key"))
    key, query = ("key_proj", "query_proj") if shared else ("pos_key_proj", "pos_query_proj")
    return PositionRows(
        table=f"{_ENCODER}rel_embeddings",
        norm=f"{_ENCODER}LayerNorm" if _NORM in _words(raw.get("norm_rel_ebd")) else None,
        terms=(f"{_SELF}{key}" if "c2p" in terms else None, f"{_SELF}{query}" if "p2c" in terms else None),
        shared=shared,
        rows=_ROWS,
    )


DEBERTA: Family = bert_encoder(
    "DebertaV2Model",
    "deberta-v2",
    learned_positions=False,
    distances=True,
    disentangled=deberta_rows,
    classifier_activation="gelu",
    decoder=deberta_config,
    keys=deberta_keys,
    facts=deberta_facts,
    names=_NAMES,
    renamed=bare("deberta.", "embeddings", "encoder"),
    ignored=(*IGNORED, "pooler.*", "lm_predictions.*", "mask_predictions.*", "*.position_embeddings.*"),
    defaults={
        **BERT_DEFAULTS,
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "position_biased_input": True,
    },
)

"""DeBERTa in all three versions (He et al., 2021): BERT's layers, whose attention knows distances."""

from __future__ import annotations

from functools import partial
from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.fused import qkv_by_head
from inflight.convert.families.names import Names, PositionRows, parts
from inflight.convert.families.rows.encoders.bert import BERT_DEFAULTS, IGNORED, bare, bert_encoder
from inflight.convert.families.rows.encoders.keys import encoder_keys, refuse_other
from inflight.convert.families.rows.keys import Raw

_ENCODER = "deberta.encoder."
_LAYER = f"{_ENCODER}layer.{{layer}}."
_SELF = f"{_LAYER}attention.self."
# The first version's queries, keys and values, of which keys have no bias.
_QKV = f"{_SELF}in_proj"
_TABLE = f"{_ENCODER}rel_embeddings"
# What is computed of the table and both projections of each layer.
_ROWS = f"{_TABLE}[layer {{layer}}, matrix {{expert}}]"
_NAMES: Names = {
    "vocab_embedding": ("deberta.embeddings.word_embeddings",),
    "position_embedding": ("deberta.embeddings.position_embeddings",),
    "token_type_embedding": ("deberta.embeddings.token_type_embeddings",),
    "embedding_projection": ("deberta.embeddings.embed_proj",),
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


def deberta_keys(values: ConfigValues, *, first: bool = False) -> dict[str, Any]:
    """A score is a sum of products, and scaled for as many of them as there are; the `first` version counts those that
    are named twice as two."""
    encoder_keys(values)
    heads, hidden = values.count("num_attention_heads"), values.count("hidden_size")
    if hidden % heads:
        values.problems.append(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    refuse_other(values, "attention_head_size", hidden // heads, "heads make up the hidden size")
    refuse_other(values, "pooler_hidden_size", hidden, "the classifier reads a hidden state")
    refuse_other(values, "pooler_hidden_act", "gelu", "the classifier has a gelu")
    if values.raw.get("conv_kernel_size", 0) != 0:
        values.refuse("conv_kernel_size", "a convolution over tokens beside the first layer is not there")
    values.refuse("talking_head", "heads do not mix")
    if not values.flag("relative_attention"):
        values.problems.append("relative_attention false is not supported: attention without distances is BERT's")
    values.flag("share_att_key")
    terms = _terms(values)
    count = len(terms if first else {*terms})
    return {"query_pre_attn_scalar": float((1 + count) * max(hidden // heads, 1))}


def _terms(values: ConfigValues) -> tuple[str, ...]:
    """The products beside that of query and key, as they are named."""
    given = values.raw.get("pos_att_type")
    if not isinstance(given, str | list | None):
        values.problems.append(f"pos_att_type must be a text or a list, not {given!r}")
    terms = _words(given)
    if unknown := [term for term in terms if term not in _TERMS]:
        values.problems.append(f"pos_att_type {'|'.join(unknown)} is not supported: {' and '.join(_TERMS)} are")
    if not terms:
        values.problems.append("pos_att_type names none of c2p and p2c, without which no score knows distances")
    return tuple(term for term in terms if term in _TERMS)


def _words(value: Any) -> tuple[str, ...]:
    """Of a list, or a text with bars in between."""
    listed = value.lower().split("|") if isinstance(value, str) else value if isinstance(value, list) else ()
    return tuple(str(word).strip() for word in listed)


def deberta_facts(values: ConfigValues) -> dict[str, Any]:
    """Of distances and their buckets."""
    norms = _words(values.raw.get("norm_rel_ebd"))
    if unknown := [name for name in norms if name not in (_NORM, "none")]:
        values.problems.append(f"norm_rel_ebd {'|'.join(unknown)} is not supported: {_NORM} is, and none")
    furthest, buckets = _furthest(values), _limit(values, "position_buckets")
    if buckets is not None and not 1 <= buckets // 2 < furthest - 1:
        values.problems.append(
            f"position_buckets {buckets} is not supported: half of it must be 1 or more, and less than "
            f"max_relative_positions ({furthest}) - 1"
        )
        values.shapes_known = False
    return {
        "relative_span": buckets or furthest,
        "furthest_bucket": None if buckets is None else furthest,
        **_tables(values),
    }


def first_facts(values: ConfigValues) -> dict[str, Any]:
    """Every distance has a row of its own. transformers has fewer of them for a shorter text, which are those in the
    middle, and so the same."""
    return {"relative_span": _furthest(values), **_tables(values)}


def _tables(values: ConfigValues) -> dict[str, Any]:
    """Of kinds of tokens and of positions, if there are some, and how wide they are."""
    kinds, hidden = values.raw.get("type_vocab_size"), values.count("hidden_size")
    width = values.count("embedding_size", hidden)
    return {
        "token_types": None if kinds == 0 else values.count("type_vocab_size"),
        "learned_positions": values.flag("position_biased_input") or None,
        "embedding_size": None if width == hidden else width,
    }


def _furthest(values: ConfigValues) -> int:
    return _limit(values, "max_relative_positions") or values.count("max_position_embeddings")


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
        table=_TABLE,
        norm=f"{_ENCODER}LayerNorm" if _NORM in _words(raw.get("norm_rel_ebd")) else None,
        terms=(f"{_SELF}{key}" if "c2p" in terms else None, f"{_SELF}{query}" if "p2c" in terms else None),
        shared=shared,
        rows=_ROWS,
    )


def first_rows(raw: Raw) -> PositionRows:
    """Rows that queries meet are made without a bias."""
    terms, made = _words(raw.get("pos_att_type")), (f"{_SELF}pos_proj", f"{_SELF}pos_q_proj")
    of_keys, of_queries = (module if term in terms else None for term, module in zip(_TERMS, made, strict=True))
    return PositionRows(_TABLE, None, (of_keys, of_queries), shared=False, rows=_ROWS, unbiased=made[:1])


_DEFAULTS = {**BERT_DEFAULTS, "type_vocab_size": 0, "layer_norm_eps": 1e-7, "position_biased_input": True}
_RENAMED = bare("deberta.", "embeddings", "encoder")
_deberta = partial(
    bert_encoder,
    learned_positions=False,
    distances=True,
    embedding_norm_last=True,
    classifier_activation="gelu",
    decoder=deberta_config,
    ignored=(*IGNORED, "pooler.*", "lm_predictions.*", "mask_predictions.*", "*.position_embeddings.*"),
)
DEBERTA: tuple[Family, ...] = (
    _deberta(
        "DebertaModel",
        "deberta",
        disentangled=first_rows,
        keys=partial(deberta_keys, first=True),
        facts=first_facts,
        names={**_NAMES, "attention.qkv": parts(_QKV, *"qkv")},
        fused={_QKV: qkv_by_head},
        unbiased=parts(_QKV, "k"),
        renamed=(*((f".self.{each}_bias", f".self.in_proj[{each}].bias") for each in "qv"), *_RENAMED),
        defaults={**_DEFAULTS, "vocab_size": 50265},
    ),
    _deberta(
        "DebertaV2Model",
        "deberta-v2",
        disentangled=deberta_rows,
        keys=deberta_keys,
        facts=deberta_facts,
        names=_NAMES,
        renamed=_RENAMED,
        defaults={
            **_DEFAULTS,
            "vocab_size": 128100,
            "hidden_size": 1536,
            "num_hidden_layers": 24,
            "num_attention_heads": 24,
            "intermediate_size": 6144,
        },
    ),
)

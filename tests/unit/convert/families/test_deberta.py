"""Configs of DeBERTa and the rows of its distances, with transformers as the judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from inflight.convert.checkpoint.position_spec import DisentangledSpec
from inflight.convert.families.family import Family
from inflight.convert.families.rows.encoders.deberta import DEBERTA, deberta_rows, first_rows
from inflight.convert.source.hf_config import ConfigReading, read_model_config

pytestmark = pytest.mark.unit
FIRST, SECOND = DEBERTA

# As mxbai-rerank-base-v1.
USUAL = {
    "architectures": ["DebertaV2ForSequenceClassification"],
    "model_type": "deberta-v2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 256,
    "max_relative_positions": -1,
    "attention_head_size": 64,
    "pooler_hidden_size": 768,
    "conv_kernel_size": 0,
    "num_labels": 1,
}


def reading(family: Family = SECOND, **changes: Any) -> ConfigReading:
    return read_model_config({**USUAL, **changes}, family)


def test_each_distance_has_the_row_that_transformers_gives_it(rng: np.random.Generator) -> None:
    sizes = [(256, 512), (-1, 40), *(tuple(pair) for pair in rng.integers((2, 60), (100, 200), (20, 2)).tolist())]
    for buckets, furthest in sizes:
        length = furthest + int(rng.integers(2, 60))
        ids, span = torch.zeros(1, length, 1), furthest if buckets < 0 else buckets
        relative = build_relative_position(ids, ids, buckets, furthest)[0].numpy()
        distances = np.arange(length)[:, None] - np.arange(length)
        found = DisentangledSpec(span, None if buckets < 0 else furthest).columns(distances)
        np.testing.assert_array_equal(found, np.clip(relative + span, 0, 2 * span - 1), err_msg=f"{buckets} {furthest}")


def test_what_decides_about_distances_is_read() -> None:
    usual = reading()
    assert not usual.problems and usual.config.query_pre_attn_scalar == 3 * 64
    for changes, expected in (
        ({}, (256, 512)),
        ({"max_relative_positions": 300}, (256, 300)),
        ({"position_buckets": -1}, (512, None)),
        ({"position_buckets": None, "max_relative_positions": 70}, (70, None)),
    ):
        block = reading(**changes).config.inflight
        assert block is not None and (block.relative_span, block.furthest_bucket) == expected, changes
    for terms in (["c2p"], "p2c", ["c2p"] * 2):
        assert reading(pos_att_type=terms).config.query_pre_attn_scalar == 2 * 64
    tables = reading(type_vocab_size=3, position_biased_input=True, embedding_size=96).config.inflight
    assert tables is not None and (tables.token_types, tables.learned_positions, tables.embedding_size) == (3, True, 96)
    same = reading(embedding_size=768).config.inflight
    assert same is not None and (same.token_types, same.learned_positions, same.embedding_size) == (None, None, None)


def test_the_first_version_has_a_row_for_every_distance_and_counts_what_is_named_twice() -> None:
    """It has no keys for buckets, for a norm and for shared projections, which transformers passes over there."""
    found = reading(FIRST)
    assert not found.problems and found.config.inflight is not None
    assert (found.config.inflight.relative_span, found.config.inflight.furthest_bucket) == (512, None)
    assert reading(FIRST, pos_att_type=["c2p"] * 2).config.query_pre_attn_scalar == 3 * 64
    layer = "deberta.encoder.layer.{layer}.attention.self."
    rows = first_rows({**USUAL, "pos_att_type": "P2C"})
    assert (rows.terms, rows.norm, rows.shared) == ((None, f"{layer}pos_q_proj"), None, False)
    assert rows.unbiased == (f"{layer}pos_proj",)


def test_rows_are_made_by_the_modules_that_the_config_means() -> None:
    layer = "deberta.encoder.layer.{layer}.attention.self."
    both = deberta_rows(USUAL)
    assert both.terms == (f"{layer}key_proj", f"{layer}query_proj") and both.shared
    assert both.norm == "deberta.encoder.LayerNorm"
    own = deberta_rows({**USUAL, "share_att_key": False, "pos_att_type": "C2P", "norm_rel_ebd": "none"})
    assert (own.terms, own.shared, own.norm) == ((f"{layer}pos_key_proj", None), False, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relative_attention": False}, "relative_attention false"),
        ({"relative_attention": None}, "relative_attention false"),
        ({"position_biased_input": 3}, "position_biased_input must be true or false, not 3"),
        ({"pos_att_type": ["c2p", "p2p"]}, "pos_att_type p2p"),
        ({"pos_att_type": None}, "pos_att_type names none of c2p and p2c"),
        ({"pos_att_type": 3}, "pos_att_type must be a text or a list, not 3"),
        ({"share_att_key": "yes"}, "share_att_key must be true or false, not 'yes'"),
        ({"norm_rel_ebd": "rms"}, "norm_rel_ebd rms"),
        ({"position_buckets": 1}, "position_buckets 1"),
        ({"position_buckets": 1022}, "position_buckets 1022"),
        ({"position_buckets": "many"}, "position_buckets must be a positive integer, not 'many'"),
        ({"conv_kernel_size": 3}, "conv_kernel_size 3"),
        ({"embedding_size": -1}, "embedding_size must be a positive integer, not -1"),
        ({"attention_head_size": 32}, "attention_head_size 32"),
        ({"hidden_size": 770}, "hidden_size 770 is no multiple of num_attention_heads 12"),
        ({"pooler_hidden_size": 32}, "pooler_hidden_size 32"),
        ({"pooler_hidden_act": "tanh"}, "pooler_hidden_act 'tanh'"),
        ({"talking_head": True}, "talking_head True"),
        ({"type_vocab_size": -1}, "type_vocab_size must be a positive integer, not -1"),
        ({"hidden_act": "weird"}, "hidden_act 'weird'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_not_there_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in reading(**changes).problems), reading(**changes).problems


def test_a_config_that_says_nothing_is_refused_as_transformers_would_read_it() -> None:
    """Its defaults have no distances."""
    bare = {key: USUAL[key] for key in ("architectures", "model_type")}
    problems = " ".join(read_model_config(bare, SECOND).problems)
    for word in ("relative_attention", "pos_att_type"):
        assert word in problems

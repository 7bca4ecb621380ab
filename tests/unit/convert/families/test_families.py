"""The family table: its page in the docs, its defaults against those of transformers, and what is refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from inflight.convert.families.document import document
from inflight.convert.families.family import Family
from inflight.convert.families.rows.encoders.table import ENCODERS
from inflight.convert.families.table import EVERY_FAMILY, FAMILIES, LACKING, find_family, require_family
from inflight.convert.source.hf_config import read_model_config
from inflight.errors import ModelError
from tests.models.families.config_sizes import SIZES, sizes_of
from tests.paths import ROOT

pytestmark = pytest.mark.unit


def test_the_page_of_the_families_is_that_of_the_table() -> None:
    written = (ROOT / "docs" / "families.md").read_text()
    assert written == document(), "python -m inflight.convert.families.document > docs/families.md"


def test_what_a_class_lacks_is_said_once_and_of_classes_without_a_row() -> None:
    listed = [name for names in LACKING.values() for name in names]
    assert len({*listed}) == len(listed)
    assert {*listed} & {name for row in EVERY_FAMILY for name in (row.architecture, *row.also)} == set()
    known = (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    assert {*listed} <= {name for names in known for name in names.values()}


@pytest.mark.parametrize("family", ENCODERS, ids=lambda family: family.architecture)
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForConditionalGeneration"])
def test_an_encoder_with_another_head_is_told_what_makes_it_embed(family: Family, head: str) -> None:
    name = re.sub(r"(Encoder)?Model$", head, family.architecture)
    with pytest.raises(ModelError, match=rf"model: {name} is not supported: it needs .*with modules.json, .*it embeds"):
        require_family("model", {"architectures": [name], "model_type": family.model_type})


def _read(family: Family, raw: dict[str, Any]) -> dict[str, Any]:
    named = {"architectures": [family.architecture], "model_type": family.model_type}
    reading = read_model_config({**named, **raw}, family)
    assert not reading.problems, reading.problems
    said = reading.config.model_dump() | {"optional": reading.optional}
    # transformers keeps some numbers as roots of others.
    return {key: round(value, 12) if isinstance(value, float) else value for key, value in said.items()}


@pytest.mark.parametrize(
    "family", [row for row in EVERY_FAMILY if not row.own_code], ids=lambda family: family.model_type
)
def test_what_a_config_does_not_say_is_what_transformers_assumes(family: Family) -> None:
    """Of a config with sizes alone, and the same with everything that transformers' own class writes."""
    made, sizes = CONFIG_MAPPING[family.model_type], sizes_of(family)
    whole = made(**sizes).to_dict()
    assert _read(family, sizes) == _read(family, {key: value for key, value in whole.items() if key != "architectures"})


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("cohere", {"use_qk_norm": True}, "use_qk_norm True is not supported"),
        ("cohere2", {"sliding_window": None, "layer_types": ["full_attention"] * 4}, "sliding_window null"),
        ("mpt", {"attn_config": {"alibi": False}}, "attn_config.alibi False is not supported: transformers has True"),
        ("mpt", {"attn_config": {"alibi_bias_max": 16}}, "attn_config.alibi_bias_max 16 is not supported"),
        ("mpt", {"expansion_ratio": 2}, "expansion_ratio 2 is not supported: transformers has 4"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm True"),
        ("llama4_text", {"moe_layers": "all"}, "moe_layers must be a list of layers, not 'all'"),
        ("llama4_text", {"layer_types": ["sliding_attention"] * 4}, "layer_types must have full_attention or chunked"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm True is not supported"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before False is not supported"),
        ("opt", {"word_embed_proj_dim": 8}, "word_embed_proj_dim 8 is not supported"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention True is not supported"),
        ("hyperclovax", {"use_post_norm": False}, "use_post_norm false is not supported"),
        ("iquestcoder", {"clip_qkv": 8.0}, "clip_qkv 8.0 is not supported"),
        ("gpt_neox", {"head_dim": 7}, "head_dim 7 is not supported"),
    ],
)
def test_what_changes_the_mathematics_is_refused_by_name(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    family = next(row for row in FAMILIES if row.model_type == model_type)
    raw = {"model_type": model_type, **SIZES, **changes}
    assert any(message in problem for problem in read_model_config(raw, family).problems)


def test_a_model_under_the_class_of_another_has_its_own_defaults() -> None:
    """transformers keeps some families under the class of Llama."""
    family = find_family({"architectures": ["LlamaForCausalLM"], "model_type": "exaone"})
    assert family is not None and family.defaults["rope_theta"] == 5e5
    llama = find_family({"architectures": ["LlamaForCausalLM"], "model_type": "some_fork"})
    assert llama is not None and llama.model_type == "llama"


def test_logits_that_a_model_of_pictures_does_not_scale_are_refused() -> None:
    text = {"model_type": "granite", **SIZES, "logits_scaling": 4.0}
    raw = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": text}
    family = find_family(raw)
    assert family is not None
    problems = read_model_config(raw, family).problems
    assert any("LlavaForConditionalGeneration of transformers neither scales" in problem for problem in problems)

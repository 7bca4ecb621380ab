"""What a config says is honoured or refused by name: every value that models of transformers read is changed in turn,
and the reading must change with it, or complain.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from inflight.convert.families.family import Family
from inflight.convert.families.table import EVERY_FAMILY
from inflight.convert.source.hf_config import read_model_config
from tests.models.families.config_sizes import sizes_of

pytestmark = pytest.mark.unit

# Of training, of outputs that nobody asks for, of tokens, and what says which model it is.
_BESIDE = re.compile(
    r"^initializer_|^use_cache$|_token_id$|^output_|return_dict|^num_labels$|^problem_type$|^router_aux|^dtype$|"
    r"^chunk_size_feed|^vocab_size$|dropout|pdrop|^layerdrop$|jitter_noise$|^summary_"
)
# The same mathematics in another order, heads that are not read, and keys beside others that decide.
_WITHOUT_EFFECT: Mapping[str, frozenset[str]] = {
    # Windows that use_sliding_window has to ask for, and patterns where layer_types is there.
    **dict.fromkeys(("qwen2", "qwen3", "smollm3", "qwen2_moe", "qwen3_moe"), frozenset({"sliding_window"})),
    "exaone4": frozenset({"sliding_window_pattern"}),
    "exaone_moe": frozenset({"sliding_window_pattern", "topk_group"}),
    # Windows of layers behind the last, and of no layer.
    "dots1": frozenset({"sliding_window", "topk_group"}),
    "mellum": frozenset({"sliding_window"}),
    # Every layer has experts.
    "solar_open": frozenset({"intermediate_size", "topk_group"}),
    # Of frequencies that are not scaled, of groups where there is one, of layers behind the last.
    "phi3": frozenset({"original_max_position_embeddings"}),
    **dict.fromkeys(("glm4_moe", "glm4_moe_lite"), frozenset({"topk_group", "num_key_value_heads"})),
    "ernie4_5_moe": frozenset({"moe_layer_end_index"}),
    # All heads have keys of their own, or all share them.
    **dict.fromkeys(("deepseek_v3", "youtu", "minicpm3"), frozenset({"num_key_value_heads"})),
    "deepseek_v2": frozenset({"num_key_value_heads", "n_group", "topk_group"}),
    "falcon": frozenset({"num_kv_heads", "num_ln_in_parallel_attn"}),
    # Where float32 is float32 anyway, and sums of slices.
    "gpt2": frozenset({"reorder_and_upcast_attn"}),
    "gpt_bigcode": frozenset({"attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"}),
    "bloom": frozenset({"pretraining_tp", "slow_but_exact"}),
    "hy_v3": frozenset({"enable_moe_fp32_combine"}),
    "gpt_neox": frozenset({"is_decoder"}),
    # What files hold as a table; and the size that the common name gives already.
    "distilbert": frozenset({"sinusoidal_pos_embds", "hidden_dim"}),
    "modernbert": frozenset(
        {"decoder_bias", "deterministic_flash_attn", "sparse_prediction", "sparse_pred_ignore_index"}
        | {"classifier_pooling"}
    ),
    # Of a head that predicts masked tokens.
    **dict.fromkeys(("deberta", "deberta-v2"), frozenset({"legacy"})),
    # Of classifiers alone, which other tests have.
    "eurobert": frozenset({"classifier_pooling"}),
    # Of the decoder, which is not read, and what follows from feed_forward_proj.
    **dict.fromkeys(
        ("t5", "mt5", "umt5"),
        frozenset({"dense_act_fn", "is_gated_act", "is_encoder_decoder", "num_decoder_layers", "scale_decoder_outputs"})
        | {"tie_word_embeddings"},
    ),
}


def _others(value: Any) -> tuple[Any, ...]:
    """Other values of the same kind."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return value + 1, value * 2
    if isinstance(value, float):
        return (value * 1.5 + 0.25,)
    return ("weird",) if isinstance(value, str) else (3, True, "weird", 0.5) if value is None else ()


def _read_by_models(family: Family) -> Iterator[str]:
    """Keys of the config that the family's models of transformers read."""
    made = CONFIG_MAPPING[family.model_type]
    # Some are under the class of another.
    model = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family.model_type)
    other = made.__module__.replace(".configuration_", ".modeling_")
    models = import_module(other if family.encoder or model is None else getattr(transformers, model).__module__)
    found = set(re.findall(r"config\.([a-z_0-9]+)", inspect.getsource(models)))
    stored = getattr(made, "attribute_map", {}) or {}
    return (name for key in sorted(found) if not _BESIDE.search(name := stored.get(key, key)))


def _reading(family: Family, raw: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    named = {"architectures": [family.architecture], "model_type": family.model_type}
    reading = read_model_config({**raw, **named}, family)
    return (reading.config.model_dump(), reading.optional), reading.problems


@pytest.mark.parametrize(
    "family", [row for row in EVERY_FAMILY if not row.own_code], ids=lambda family: family.model_type
)
def test_every_value_that_models_read_is_honoured_or_refused(family: Family) -> None:
    whole = CONFIG_MAPPING[family.model_type](**sizes_of(family)).to_dict()
    usual, problems = _reading(family, whole)
    assert not problems
    skipped = set()
    for key in _read_by_models(family):
        others = _others(whole[key]) if key in whole else ()
        changed = [_reading(family, {**whole, key: other}) for other in others]
        if others and not any(complaints or found != usual for found, complaints in changed):
            skipped.add(key)
    assert skipped <= _WITHOUT_EFFECT.get(family.model_type, frozenset())

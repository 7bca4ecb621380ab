"""Messages about values of config.json name the keys that the file has."""

from __future__ import annotations

from typing import Any

import pytest

from inflight.convert.families.table import family_of
from inflight.convert.source.hf_config import read_model_config

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("architecture", "config", "words"),
    [
        ("HunYuanMoEV1ForCausalLM", {"moe_topk": [2, 1]}, "moe_topk must be a positive integer, not [2, 1]"),
        ("ExaoneForCausalLM", {"num_layers": "two"}, "num_layers must be a positive integer, not 'two'"),
        (
            "ExaoneMoeForCausalLM",
            {"num_experts": 1.5, "num_hidden_layers": 3},
            "num_experts must be a positive integer, not 1.5",
        ),
        ("T5EncoderModel", {"feed_forward_proj": "gated-swish"}, "feed_forward_proj 'gated-swish' is not supported"),
        ("MT5EncoderModel", {"feed_forward_proj": 5}, "feed_forward_proj 5 is not supported"),
        ("DistilBertModel", {"activation": "swish"}, "activation 'swish' is not supported"),
        ("GPTNeoForCausalLM", {"activation_function": "swish"}, "activation_function 'swish' is not supported"),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": 0}, "softcapping must be a positive number or null, not 0"),
    ],
)
def test_a_renamed_key_is_called_as_in_the_file(architecture: str, config: dict[str, Any], words: str) -> None:
    problems = read_model_config(config, family_of(architecture)).problems
    assert any(words in problem for problem in problems), problems

"""vLLM's overrides of config.json, as --hf-overrides and as an argument of LLM."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inflight.migration.overrides import score_tokens
from inflight.migration.row import NOTED, REFUSED
from tests.unit.cli.foreign_values import OVERRIDES

pytestmark = pytest.mark.unit

_QWEN2: dict[str, Any] = {"architectures": ["Qwen2ForSequenceClassification"], "classifier_from_token": ["0", "1"]}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (OVERRIDES, "yes,no"),
        (json.dumps({**_QWEN2, "method": "from_2_way_softmax"}), "1,0"),
        ('{"classifier_from_token":["Yes"],"method":"no_post_processing","num_labels":1}', "Yes"),
    ],
)
def test_those_that_make_a_scorer_of_a_generator_name_its_tokens(text: str, tokens: str) -> None:
    """The last one there, that of a relevant pair, comes first here."""
    assert score_tokens(text) == tokens


def test_those_that_override_nothing_are_noted() -> None:
    assert score_tokens("{}")[:1] == score_tokens("")[:1] == NOTED


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[5]", '{"rope_theta":5}', '{"method":null}'),
        *(json.dumps({"classifier_from_token": tokens}) for tokens in ([], ["a", "b", "c"], "ab", [5], [""])),
        *(
            json.dumps({"classifier_from_token": ["Yes"], **more})
            for more in (
                *({"num_labels": 2}, {"architectures": ["X"]}, {"rope_theta": 5}, {"method": "from_2_way_softmax"}),
                {"is_original_qwen3_reranker": True},
            )
        ),
    ],
)
def test_others_are_refused(text: str) -> None:
    assert score_tokens(text)[:1] == REFUSED

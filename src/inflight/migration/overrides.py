"""vLLM's overrides of config.json, of which those are honoured that make a scorer of a generator."""

from __future__ import annotations

import json
from typing import Any

from inflight.migration import reasons as why
from inflight.migration.row import NOTED, REFUSED

_CLASSIFIER = "ForSequenceClassification"
_TOKENS, _METHOD = "classifier_from_token", "method"
# What the logits of so many tokens become, by the names of vLLM.
_METHODS = {1: "no_post_processing", 2: "from_2_way_softmax"}


def score_tokens(text: str) -> str:
    """`--score-tokens` of the overrides in a JSON object: the token of a relevant pair, which is the last one there,
    comes first. What they are not is refused, as the values of a row are."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return REFUSED + "it must be a JSON object."
    if not found:
        return NOTED + "it overrides nothing."
    tokens = found.get(_TOKENS) if isinstance(found, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(each, str) and each for each in tokens):
        return REFUSED + why.CONFIG_FILES
    others = [key for key, value in found.items() if not _agrees(key, value, len(tokens))]
    if others:
        return f"{REFUSED}{', '.join(others)}: {why.CONFIG_FILES}"
    return ",".join(reversed(tokens))


def _agrees(key: str, value: Any, count: int) -> bool:
    """Whether a value says no more than that the model is a classifier of one label, made of `count` tokens."""
    said = {
        _TOKENS: count in _METHODS,
        _METHOD: value in (None, _METHODS.get(count)),
        "num_labels": value == 1,
        "is_original_qwen3_reranker": value is False or count == max(_METHODS),
        "architectures": isinstance(value, list) and all(str(each).endswith(_CLASSIFIER) for each in value),
    }
    return bool(said.get(key))

"""/v1/score as SGLang has it: of each item behind the query, the shares of labels.

A generator's labels are tokens. An engine that scores by two of them knows how their logits differ and nothing of
others, so that their shares of each other (`apply_softmax`) are there, and shares of the whole vocabulary are not. A
cross-encoder's label is its one score, as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from inflight.errors import placed
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import Floats, softmax
from inflight.triton_backend.openai.errors import ApiError, blaming
from inflight.triton_backend.openai.protocol.pairs import ScoreBody
from inflight.triton_backend.openai.service import Service

_OTHERS = ("text_1", "data_1", "queries", "text_2", "data_2", "documents", "instruction", "instruct", "use_activation")
_OTHER_WAYS = (*_OTHERS, "activation", "max_tokens_per_query", "max_tokens_per_doc")


def check_labels(reader: TextReader, body: ScoreBody) -> None:
    """Raises ApiError (400) for labels that this engine does not score by."""
    other = next((name for name in _OTHER_WAYS if getattr(body, name) is not None), None)
    if other is not None:
        raise ApiError(400, f"query and items are all that is scored, as in SGLang; leave {other} out.", param=other)
    if body.items is None:
        raise ApiError(400, "Missing required parameter: 'items'.", param="items")
    if body.items == []:
        raise ApiError(400, "There is no text in items.", param="items")
    if reader.facts.task != "score":
        message = "This model makes embeddings: it has no labels. Send text_1 and text_2 for their cosine."
        raise ApiError(400, message, param="query")
    tokens = _label_ids(reader)
    if not tokens:
        if body.label_token_ids:
            raise ApiError(400, "This model scores by no tokens; leave label_token_ids out.", param="label_token_ids")
        return
    named = " and ".join(f"{each} ({text!r})" for each, text in zip(tokens, reader.facts.scored_by, strict=True))
    if len(tokens) == 1 or sorted(body.label_token_ids or ()) != sorted(tokens):
        message = f"label_token_ids must be those that this engine scores by, {named}"
        raise ApiError(400, f"{message}{', of which there must be two' * (len(tokens) == 1)}.", param="label_token_ids")
    if not body.apply_softmax:
        message = f"The logits of {named} alone are known: set apply_softmax, for their shares of each other."
        raise ApiError(400, message, param="apply_softmax")


def read_items(reader: TextReader, body: ScoreBody) -> list[TokenizedText]:
    """The query with each item behind it, or in front. Raises ApiError (400)."""
    query, items, truncate = body.query, body.items, body.truncate_prompt_tokens
    assert query is not None and items is not None
    with blaming("truncate_prompt_tokens"):
        reader.check_truncation(truncate)
    found = []
    for index, item in enumerate([items] if isinstance(items, str) else items):
        param = "items" if isinstance(items, str) else f"items.{index}"
        with blaming(param), placed(f"'{param}'"):
            if isinstance(query, str) and isinstance(item, str):
                found.append(reader.text(item + query if body.item_first else query + item, truncate=truncate))
            elif isinstance(query, list) and isinstance(item, list):
                found.append(reader.ids(item + query if body.item_first else query + item, truncate=truncate))
            else:
                raise ApiError(400, "query and items must both be text, or both token ids.", param=param)
    return found


def label_scores(
    service: Service, reader: TextReader, body: ScoreBody, texts: Sequence[TokenizedText], found: Sequence[Floats]
) -> dict[str, Any]:
    """The answer, `found` being what the engine made of `texts`."""
    tokens, count = _label_ids(reader), sum(len(text.token_ids) for text in texts)
    scores = []
    for row in found:
        raw = [float(row[0]), 0.0][: max(1, len(tokens))]
        numbers = softmax(raw) if body.apply_softmax else raw
        order = [tokens.index(each) for each in body.label_token_ids or ()] or [0]
        scores.append([numbers[each] for each in order])
    return {
        "object": "scoring",
        "model": service.model_name,
        "scores": scores,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _label_ids(reader: TextReader) -> tuple[int, ...]:
    tokens = reader.facts.score_tokens
    return () if tokens is UNSET else tuple(each.id for each in tokens)

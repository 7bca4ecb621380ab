"""From tokens to the parts of an answer of a model that reasons, whose markers are special tokens, or ordinary ones."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken

from inflight.runtime.request.deltas import FinishReason, TokenDelta
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.completion import RequestText
from inflight.runtime.text.parsers.answer import AnswerFormat, AnswerParts, Chain, PlainText
from inflight.runtime.text.parsers.parts import Content, Part, Reasoning
from inflight.runtime.text.parsers.reasoning.count import ReasoningCounts
from inflight.runtime.text.parsers.reasoning.families import FAMILIES
from inflight.runtime.text.parsers.reasoning.parser import Beginning
from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import KINDS

pytestmark = pytest.mark.unit

TEXTS = {
    "mistral": ("[THINK]why not[/THINK]The fox", "why not", "The fox"),
    "think": ("<think>\nwhy not\n</think>\n\nThe fox", "why not", "The fox"),
    "gpt_oss": (
        "<|channel|>analysis<|message|>why not<|end|><|start|>assistant<|channel|>final<|message|>The fox",
        "why not",
        "The fox",
    ),
    # What the model does not close, and what it writes where it has no meaning.
    "seed_oss": ("The </seed:think>fox", "", "The </seed:think>fox"),
}


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("name", TEXTS)
def test_markers_are_seen_and_not_shown(name: str, skips: bool, is_special: bool, rng: np.random.Generator) -> None:
    family = FAMILIES[name]
    backend = KINDS["byte_level"]()
    if is_special:
        backend.add_special_tokens([AddedToken(marker, normalized=False) for marker in family.markers])
    tokenizer = Tokenizer(backend)
    text, reasoning, content = TEXTS[name]
    if skips and is_special:
        content = content.replace("</seed:think>", "")
    ids = tokenizer.encode(text, add_special_tokens=False)
    form = AnswerFormat(lambda: Chain(family.parser(Beginning.OPEN), PlainText()), family.markers)
    params = SamplingParams(skip_special_tokens=skips)
    for _ in range(10):
        stream = RequestText(tokenizer, params, form.markers)
        parts = AnswerParts(form, tokenizer, skips)
        counts = ReasoningCounts(lambda: family.parser(Beginning.OPEN), tokenizer)
        found: list[Part] = []
        at = 0
        while at < len(ids):
            end = at + int(rng.integers(1, 6))
            finished: FinishReason | None = "stop" if end >= len(ids) else None
            for news in stream.push(TokenDelta("id", 0, tuple(ids[at:end]), finish_reason=finished)):
                counts.push(news.index, news.token_ids, finished is not None)
                found += parts.push(news)
            at = end
        assert "".join(part.text for part in found if isinstance(part, Reasoning)) == reasoning
        assert "".join(part.text for part in found if isinstance(part, Content)) == content
        assert bool(counts.total) is bool(reasoning) and counts.total < len(ids)

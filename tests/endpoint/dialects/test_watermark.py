"""Watermarked texts of the demonstration model, asked for as TGI's clients do and in the names of the engine."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient

from inflight.runtime.sampling.watermark import watermark_score
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from tests.engines.demo_engine import random_questions
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

TEXTS, TOKENS = 6, 150


@pytest.fixture(params=["embedded", "triton"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_demo"))


@pytest.fixture
def tokenizer(demo_engine: Path) -> Tokenizer:
    return load_tokenizer(demo_engine / "tokenizer")


def complete(url: str, prompt: str | list[str], seed: int, **more: Any) -> list[str]:
    """Texts of the model's own probabilities, but for what `more` says."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE_S)
    body: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": TOKENS, **more}
    known = {name: body.pop(name) for name in ("temperature", "top_p", "max_tokens")}
    answer = client.completions.create(model="any", prompt=prompt, seed=seed, extra_body=body, **known)
    return [choice.text for choice in answer.choices]


def z_of_all(texts: list[str], tokenizer: Tokenizer) -> float:
    """Of the pairs of all texts together."""
    scores = [watermark_score(tokenizer.encode(text, add_special_tokens=False), 0.5) for text in texts]
    count = sum(score.tokens for score in scores)
    assert count > TEXTS * TOKENS / 2, "texts repeat themselves"
    return (sum(score.favoured for score in scores) - 0.5 * count) / sqrt(0.25 * count)


def test_texts_with_a_watermark_are_found_and_others_are_not(
    embedded_demo: str, triton_demo: str, tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    """By chance z is beyond 6.5 once in 10^10; with this watermark it is 15 here, give or take 1."""
    prompts, seed = [question for question, _ in random_questions(rng, TEXTS)], int(rng.integers(1 << 30))
    plain = complete(embedded_demo, prompts, seed, ignore_eos=True)
    marked = complete(embedded_demo, prompts, seed, ignore_eos=True, watermark_delta=4.0)
    assert z_of_all(plain, tokenizer) < 6.5 < z_of_all(marked, tokenizer)
    assert complete(triton_demo, prompts[:2], seed, ignore_eos=True, watermark_delta=4.0) == marked[:2]


def test_tgis_watermark_is_one_of_half_the_vocabulary_and_of_two(
    url: str, tokenizer: Tokenizer, rng: np.random.Generator
) -> None:
    """Sampled, greedy and streamed."""
    client = InferenceClient(model=url, timeout=PATIENCE_S)
    ((question, _),) = random_questions(rng, 1)
    prompt, seed = tokenizer.render_chat([{"role": "user", "content": question}]), int(rng.integers(1 << 30))
    own = {"watermark_delta": 2.0, "watermark_gamma": 0.5, "max_tokens": 40}
    for asked, temperature in (({"do_sample": True, "seed": seed}, 1.0), ({}, 0.0)):
        (expected,) = complete(url, prompt, seed, **own, temperature=temperature)
        assert expected
        marked: Any = {"max_new_tokens": 40, "watermark": True, **asked}
        assert client.text_generation(prompt, **marked) == expected
        events = client.text_generation(prompt, stream=True, details=True, **marked)
        assert "".join(event.token.text for event in events if not event.token.special) == expected

"""POST /score as vLLM's examples send it, beside the offline interface."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from inflight.runtime import LLM, PoolingParams
from tests.endpoint.conftest import MODEL
from tests.models.tiny_tokenizers import random_text
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.fixture(scope="module")
def llm(scoring_engine: Path) -> Iterator[LLM]:
    with LLM(scoring_engine, threads=1) as opened:
        yield opened


def ask(shim: str, path: str = "/score", **body: Any) -> httpx.Response:
    return httpx.post(f"{shim}{path}", json={"model": MODEL, **body}, timeout=PATIENCE_S)


def test_the_scores_are_those_of_llm(scoring_shim: str, llm: LLM, rng: np.random.Generator) -> None:
    texts = [random_text(rng) + "dog" for _ in range(int(rng.integers(2, 9)))]
    for path, names, first, second in (
        ("/score", ("text_1", "text_2"), "a fox", texts[0]),
        ("/v1/score", ("data_1", "data_2"), "a fox", texts),
        ("/score", ("queries", "documents"), texts, texts[::-1]),
    ):
        answer = ask(scoring_shim, path, **dict(zip(names, (first, second), strict=True))).json()
        queries = first if isinstance(first, list) else [first]
        outputs = llm.score(queries if len(queries) > 1 else queries[0], second, use_tqdm=False)
        assert [each["index"] for each in answer["data"]] == list(range(len(outputs)))
        for each, output in zip(answer["data"], outputs, strict=True):
            assert each["object"] == "score" and math.isclose(each["score"], output.outputs.score, abs_tol=1e-5)
        assert answer["usage"]["total_tokens"] == sum(len(output.prompt_token_ids) for output in outputs)
        assert (answer["object"], answer["model"]) == ("list", MODEL) and answer["id"].startswith("score-")
    # The one label of a cross-encoder, of a text, as SGLang has it.
    (text,) = llm.encode("fox dog", pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
    answer = ask(scoring_shim, query="fox", items=[" dog"]).json()
    assert answer["scores"] == [[pytest.approx(float(text.outputs.data[0]), abs=1e-4)]]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text_1": "a"}, "text_2"),
        ({"text_2": "a"}, "text_1"),
        ({"text_1": "a", "data_1": "b", "text_2": "c"}, "data_1"),
        ({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"queries": "a", "documents": 3}, "documents"),
        ({"text_1": "a", "text_2": "x " * 50_000}, "text_2"),
        ({"text_1": "a", "text_2": "b", "softmax": True}, "softmax"),
        ({"query": "a", "items": "b", "label_token_ids": [5]}, "label_token_ids"),
        ({"text_1": "a", "items": [[5]]}, "items"),
        ({"query": "a", "items": []}, "items"),
        ({"text_1": "a", "text_2": "b", "use_activation": True, "activation": False}, "activation"),
        ({"text_1": ["a", "", "c"], "text_2": ["a", "b", "c"]}, "text_1.1"),
        ({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 10**6}, "truncate_prompt_tokens"),
    ],
)
def test_bad_input_is_an_error_that_names_it(scoring_shim: str, body: dict[str, Any], param: str) -> None:
    answer = ask(scoring_shim, **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_an_embedding_model_gives_cosines(
    embedded_embedding_shim: str, embedding_engine: Path, rng: np.random.Generator
) -> None:
    shim, texts = embedded_embedding_shim, [random_text(rng) + "dog" for _ in range(int(rng.integers(2, 9)))]
    with LLM(embedding_engine, threads=1) as opened:
        for queries in (texts[:1], texts[::-1]):
            outputs = opened.score(queries, texts, use_tqdm=False)
            scores = [each.outputs.score for each in outputs]
            answer = ask(shim, text_1=queries[0] if len(queries) == 1 else queries, text_2=texts).json()
            assert [each["score"] for each in answer["data"]] == pytest.approx(scores, abs=1e-5)
            assert answer["usage"]["total_tokens"] == sum(len(output.prompt_token_ids) for output in outputs)
        scores = [each.outputs.score for each in opened.score(texts[0], texts, use_tqdm=False)]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    body = {"query": texts[0], "documents": texts}
    found = httpx.post(f"{shim}/v1/rerank", json=body, timeout=PATIENCE_S).json()["results"]
    assert [each["relevance_score"] for each in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    assert all(each["relevance_score"] == pytest.approx(scores[each["index"]], abs=1e-5) for each in found)
    wrong = ask(shim, text_1="a", text_2=["b", ""]).json()["error"]
    assert wrong["param"] == "text_2.1" and "text_2.1" in wrong["message"]


def test_other_engines_say_what_they_are_for(embedded_shim: str) -> None:
    answer = ask(embedded_shim, text_1="a", text_2="b")
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400 and "generates text" in message and "--score-tokens yes,no" in message

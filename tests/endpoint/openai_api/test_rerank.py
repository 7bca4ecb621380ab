"""POST /v1/rerank in the shapes of Jina's and Cohere's APIs and of TEI, beside the offline interface."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime import LLM
from inflight.triton_backend.openai.protocol.pairs import RerankBody, ScoreBody
from tests.endpoint.conftest import MODEL, pooling_shim
from tests.endpoint.openai_api.mutations import draw
from tests.endpoint.openai_api.test_bad_input import problem, run
from tests.endpoint.openai_api.test_embeddings import JSON
from tests.models.families.rerankers import BEHIND, SEARCH, Reranker, prompt, save_reranker
from tests.models.tiny_tokenizers import random_text
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

GOOD: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"model": MODEL, "query": "fox", "documents": ["dog", {"text": "a lazy fox"}], "top_n": 1},
    "/rerank": {"query": "fox", "texts": ["dog", "a lazy fox"], "raw_scores": True, "truncate": True},
    "/score": {"text_1": "fox", "text_2": ["dog", "cat"], "max_tokens_per_doc": 1, "use_activation": False},
    "/v1/score": {"query": "fox", "items": ["dog"], "item_first": True},
}


@pytest.fixture(scope="module")
def llm(scoring_engine: Path) -> Iterator[LLM]:
    with LLM(scoring_engine, threads=1) as opened:
        yield opened


def ask(shim: str, path: str, **body: Any) -> Any:
    answer = httpx.post(shim + path, json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_documents_come_in_the_order_of_their_scores(scoring_shim: str, llm: LLM, rng: np.random.Generator) -> None:
    query, documents = random_text(rng) + "fox", [random_text(rng) + "dog" for _ in range(int(rng.integers(1, 20)))]
    outputs = llm.score(query, documents, use_tqdm=False)
    scores = [each.outputs.score for each in outputs]
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        answer = ask(scoring_shim, path, query=query, documents=documents, model=MODEL)
        listed = answer["results"]
        assert sorted(each["index"] for each in listed) == list(range(len(documents)))
        for each in listed:
            assert each["document"]["text"] == documents[each["index"]]
            assert math.isclose(each["relevance_score"], scores[each["index"]], abs_tol=1e-5)
        found = [each["relevance_score"] for each in listed]
        assert found == sorted(found, reverse=True)
        assert answer["usage"]["total_tokens"] == sum(len(each.prompt_token_ids) for each in outputs)
        assert answer["model"] == MODEL and answer["id"].startswith("rerank-")


def test_the_best_few_without_their_texts(scoring_shim: str) -> None:
    documents = [{"text": "dog"}, "a lazy fox", {"text": "東京"}]
    body = {"query": "fox", "documents": documents}
    every = ask(scoring_shim, "/v1/rerank", **body)["results"]
    few = ask(scoring_shim, "/v1/rerank", **body, top_n=2, return_documents=False)["results"]
    assert few == [{key: value for key, value in each.items() if key != "document"} for each in every[:2]]
    # The default of vLLM's API, which its clients spell out.
    assert ask(scoring_shim, "/v1/rerank", **body, top_n=0)["results"] == every


def test_what_a_document_has_beside_its_text_comes_back(scoring_shim: str) -> None:
    documents = [{"text": "dog", "id": 3}, {"text": "a lazy fox", "title": "Fox", "tags": ["a"]}, "cat"]
    answer = ask(scoring_shim, "/v1/rerank", query="fox", documents=documents, rank_fields=["text"])
    given = [each if isinstance(each, dict) else {"text": each} for each in documents]
    assert all(each["document"] == given[each["index"]] for each in answer["results"])


def test_parts_short_texts_and_raw_scores_are_as_in_sglang_and_vllm(scoring_shim: str, llm: LLM) -> None:
    documents = ["dog 東京 fox dog", "a lazy fox " * 90]
    parts = [[{"type": "text", "text": "dog 東京 fox"}, {"type": "text", "text": "dog"}], documents[1]]
    query = [{"type": "text", "text": "fox"}]
    body = {"truncate_prompt_tokens": -1, "truncation_side": "right", "padding": "do_not_pad", "cache_salt": "x"}
    plain = ask(scoring_shim, "/v1/rerank", query="fox", documents=documents, **body)
    assert ask(scoring_shim, "/v1/rerank", query=query, documents=parts, **body)["results"] == plain["results"]
    raw = ask(scoring_shim, "/v1/rerank", query="fox", documents=documents, use_activation=False, **body)["results"]
    for one, other in zip(plain["results"], raw, strict=True):
        assert math.isclose(one["relevance_score"], 1 / (1 + math.exp(-other["relevance_score"])), abs_tol=1e-6)
    cut = {"max_tokens_per_query": 1, "max_tokens_per_doc": 2}
    answer = ask(scoring_shim, "/score", text_1="fox dog fox", text_2=documents, **cut)
    (shortest,) = llm.score("fox", "a lazy", use_tqdm=False)
    assert answer["data"][1]["score"] == pytest.approx(shortest.outputs.score, abs=1e-5)


def test_tei_has_a_list_and_raw_scores(scoring_shim: str) -> None:
    texts = ["dog", "a lazy fox", "東京 " * 200]
    meant = ask(scoring_shim, "/rerank", query="fox", texts=texts, truncate=True, return_text=True)
    raw = ask(scoring_shim, "/rerank", query="fox", texts=texts, truncate=True, raw_scores=True)
    assert [each["index"] for each in meant] == [each["index"] for each in raw]
    for one, other in zip(meant, raw, strict=True):
        assert one["text"] == texts[one["index"]] and "text" not in other
        assert math.isclose(one["score"], 1 / (1 + math.exp(-other["score"])), abs_tol=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["dog"]}, "query"),
        ({"query": "", "documents": ["dog"]}, "query"),
        ({"query": "fox"}, "documents"),
        ({"query": "fox", "documents": []}, "documents"),
        ({"query": "fox", "documents": ["dog", ""]}, "documents.1"),
        ({"query": "fox", "documents": [{"title": "dog"}]}, "documents"),
        ({"query": "fox", "documents": [5]}, "documents"),
        ({"query": "fox", "documents": "dog"}, "documents"),
        ({"query": "\ud800", "documents": ["dog"]}, "query"),
        ({"query": "fox", "documents": ["\ud800"]}, "documents"),
        ({"query": "fox", "documents": ["dog", "dog " * 150]}, "documents.1"),
        ({"query": "fox", "texts": ["dog"], "documents": ["dog"]}, "documents"),
        ({"query": "fox", "texts": [""]}, "texts"),
        ({"query": "fox", "documents": ["dog"], "top_n": -1}, "top_n"),
        ({"query": "fox", "documents": ["dog"], "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"query": "fox", "documents": ["dog"], "rank_fields": ["a"]}, "rank_fields"),
        ({"query": "fox", "documents": ["dog"], "instruction": "find it"}, "instruction"),
        ({"query": "fox", "documents": ["dog"], "instruction": "find it", "instruct": "find"}, "instruct"),
        ({"query": "fox", "documents": ["dog", {"title": "a"}]}, "documents"),
        ({"query": "fox", "documents": ["dog"], "instruct": "find it"}, "instruct"),
        ({"query": "fox", "documents": [[{"type": "image_url", "image_url": {"url": "x"}}]]}, "documents"),
        ({"query": [{"type": "text"}], "documents": ["dog"]}, "query"),
        ({"query": "fox", "documents": ["dog", ""], "max_tokens_per_doc": 1}, "documents.1"),
        ({"query": "fox", "documents": ["dog"], "max_tokens_per_query": -1}, "max_tokens_per_query"),
        ({"query": "fox", "documents": ["dog"], "truncation_side": "left"}, "truncation_side"),
    ],
)
def test_bad_input_is_an_error_that_names_it(scoring_shim: str, body: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{scoring_shim}/v1/rerank", content=json.dumps(body), headers=JSON, timeout=PATIENCE_S)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"]
    assert error["param"] == param or error["param"].startswith(f"{param}."), error


def test_an_instruction_goes_into_the_template_of_a_generator(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_reranker(tmp_path / "model", "qwen3", rng)
    convert_model(model.directory, tmp_path / "checkpoint", ConvertOptions(score_tokens=("yes", "no")))
    engine = tmp_path / "engine"
    build_engine(tmp_path / "checkpoint", engine, make_recipe("reference", max_batch_size=4))
    query, documents = random_text(rng) + "fox", ["dog", random_text(rng) + "cat", "a lazy fox"]
    with pooling_shim(engine) as shim, LLM(engine, threads=1) as opened:
        (listed,) = httpx.get(f"{shim}/v1/models").json()["data"]
        assert listed["score_tokens"] == ["yes", "no"] and listed["instruction"] == SEARCH
        for asked in (None, "find the cat"):
            outputs = opened.score(query, documents, use_tqdm=False, instruction=asked)
            expected = [each.outputs.score for each in outputs]
            body = {"query": query, "documents": documents, "instruction": asked}
            listed = ask(shim, "/v1/rerank", **body)["results"]
            found = [each["relevance_score"] for each in sorted(listed, key=lambda each: each["index"])]
            assert np.allclose(found, expected, atol=1e-5)
            again = ask(shim, "/v1/rerank", query=query, documents=documents, instruct=asked)["results"]
            assert again == listed
            pairs = ask(shim, "/score", text_1=query, text_2=documents, instruction=asked)["data"]
            assert np.allclose([each["score"] for each in pairs], expected, atol=1e-5)
            again = ask(shim, "/v1/score", queries=query, items=documents, instruct=asked)["data"]
            assert again == pairs
        _check_labels(shim, model, opened)
        wrong = json.dumps({"text_1": "a", "text_2": "b", "instruction": "\ud800"})
        answer = httpx.post(f"{shim}/score", content=wrong, headers=JSON)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "instruction"


def _check_labels(shim: str, model: Reranker, opened: LLM) -> None:
    """As SGLang's clients ask for shares of two tokens behind a prompt of their own."""
    text, items = prompt("qwen3", "fox", "", None).removesuffix(BEHIND), ["dog" + BEHIND, "a lazy fox" + BEHIND]
    ids = [int(model.tokenizer.convert_tokens_to_ids(token)) for token in ("no", "yes")]
    outputs = opened.score("fox", ["dog", "a lazy fox"], use_tqdm=False)
    expected = [[1 - each.outputs.score, each.outputs.score] for each in outputs]
    body = {"query": text, "items": items, "label_token_ids": ids, "apply_softmax": True}
    answer = ask(shim, "/v1/score", **body)
    assert answer["object"] == "scoring" and np.allclose(answer["scores"], expected, atol=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(len(each.prompt_token_ids) for each in outputs)
    # Tokens of two texts that are joined are not those of each.
    whole, cut = [list(each.prompt_token_ids) for each in outputs], len(model.ids(text)) - 3
    same = ask(shim, "/v1/score", **{**body, "query": whole[0][:cut], "items": [each[cut:] for each in whole]})
    assert np.allclose(same["scores"], expected, atol=1e-5)
    turned = ask(shim, "/v1/score", **{**body, "query": items[1], "items": text, "item_first": True})
    assert np.allclose(turned["scores"], expected[1:], atol=1e-5)
    for change, param in (
        ({"apply_softmax": False}, "apply_softmax"),
        ({"label_token_ids": ids[:1]}, "label_token_ids"),
        ({"label_token_ids": [1, 2]}, "label_token_ids"),
        ({"items": [[1, 2]]}, "items.0"),
        ({"items": None}, "items"),
        ({"items": []}, "items"),
        ({"text_1": "fox"}, "text_1"),
        ({"return_pooled_hidden_states": True}, "return_pooled_hidden_states"),
        ({"query": None, "text_1": "fox"}, "label_token_ids"),
    ):
        wrong = httpx.post(f"{shim}/v1/score", json={**body, **change}, timeout=PATIENCE_S)
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == param, (change, wrong.text)


def test_routes_of_other_tasks_say_what_the_model_is_for(scoring_shim: str) -> None:
    for path in ("/v1/embeddings", "/v1/chat/completions", "/v1/completions"):
        answer = httpx.post(scoring_shim + path, json={"input": "fox"}, timeout=PATIENCE_S)
        assert answer.status_code == 400 and "scores documents for a query" in answer.json()["error"]["message"]
    assert httpx.get(f"{scoring_shim}/v1/models").json()["data"][0]["task"] == "score"


def test_mutated_bodies_get_an_answer_or_an_error_of_the_api(scoring_shim: str, seed: int) -> None:
    drawn = random.Random(seed)
    names = sorted({*RerankBody.model_fields, *ScoreBody.model_fields})
    for call in [draw(drawn, names, GOOD) for _ in range(150)]:
        answer = run(scoring_shim, call)
        wrong = problem(answer, call)
        assert wrong is None, f"{call.short()}\n  -> {wrong}"

"""POST /classify as vLLM's examples send it, beside the offline interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from inflight.runtime import LLM, PoolingParams
from tests.endpoint.conftest import MODEL, pooling_shim
from tests.engines.pooling_engines import write_pooling_engine
from tests.models.tiny_tokenizers import random_text
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a random classifier, for ONNX Runtime."""
    return write_pooling_engine(tmp_path_factory.mktemp("classes"), "classify")


@pytest.fixture(scope="module")
def shim(engine: Path) -> Iterator[str]:
    with pooling_shim(engine) as url:
        yield url


def ask(shim: str, path: str = "/classify", **body: Any) -> httpx.Response:
    return httpx.post(f"{shim}{path}", json={"model": MODEL, **body}, timeout=PATIENCE_S)


def test_the_classes_are_those_of_llm(shim: str, engine: Path, rng: np.random.Generator) -> None:
    texts = [random_text(rng) + "dog" for _ in range(int(rng.integers(2, 9)))]
    raw = PoolingParams(use_activation=False)
    with LLM(engine, threads=1) as llm:
        asked: list[dict[str, Any]] = [{}, {"use_activation": False}, {"activation": False}]
        for options, params in zip(asked, (None, raw, raw), strict=True):
            outputs = llm.classify(texts, pooling_params=params, use_tqdm=False)
            answer = ask(shim, input=texts, **options).json()
            for index, (each, output) in enumerate(zip(answer["data"], outputs, strict=True)):
                assert (each["index"], each["num_classes"]) == (index, 3)
                assert np.allclose(each["probs"], output.outputs.probs, atol=1e-5)
                assert each["label"] == f"LABEL_{int(np.argmax(each['probs']))}"
            assert answer["usage"]["total_tokens"] == sum(len(output.prompt_token_ids) for output in outputs)
        (alone,) = ask(shim, input=texts[0]).json()["data"]
        (of_ids,) = ask(shim, input=llm.classify(texts[0], use_tqdm=False)[0].prompt_token_ids).json()["data"]
        assert alone == of_ids and abs(sum(alone["probs"]) - 1) < 1e-6
    assert (answer["object"], answer["model"]) == ("list", MODEL) and answer["id"].startswith("classify-")
    (model,) = httpx.get(f"{shim}/v1/models", timeout=PATIENCE_S).json()["data"]
    assert (model["task"], model["labels"]) == ("classify", ["LABEL_0", "LABEL_1", "LABEL_2"])


def test_a_cross_encoder_has_one_class(scoring_shim: str) -> None:
    (found,) = ask(scoring_shim, input="a fox").json()["data"]
    assert found["num_classes"] == 1 and 0 < found["probs"][0] < 1 and found["label"] == "LABEL_0"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": "a", "use_activation": True, "activation": False}, "activation"),
        ({"input": "x " * 50_000}, "input"),
        ({"input": 3}, "input"),
        ({"input": "a", "priority": 3}, "priority"),
        ({"input": "a", "softmax": True}, "softmax"),
    ],
)
def test_bad_input_is_an_error_that_names_it(shim: str, body: dict[str, Any], param: str) -> None:
    answer = ask(shim, **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_engines_say_what_they_are_for(shim: str, embedded_embedding_shim: str) -> None:
    for url, path, body, words in (
        (embedded_embedding_shim, "/classify", {"input": "a"}, "makes embeddings"),
        (shim, "/score", {"text_1": "a", "text_2": "b"}, "classifies texts: /classify and /pooling."),
        (shim, "/v1/chat/completions", {"messages": []}, "classifies texts"),
    ):
        answer = ask(url, path, **body)
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]

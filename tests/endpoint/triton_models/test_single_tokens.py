"""POST /pooling as vLLM's examples send it, over both backends, beside the offline interface."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from inflight.runtime import LLM, PoolingParams
from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.openai.backends.triton_pooling import TritonPooling
from tests.endpoint.conftest import MODEL, pooling_shim, running_shim, running_triton
from tests.engines.pooling_engines import write_pooling_engine
from tests.models.tiny_tokenizers import random_text
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def llm(embedding_engine: Path) -> Iterator[LLM]:
    with LLM(embedding_engine, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def token_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a random classifier of tokens, for ONNX Runtime."""
    return write_pooling_engine(tmp_path_factory.mktemp("tokens"), "token_classify")


@pytest.fixture(scope="module")
def classes(token_engine: Path) -> Iterator[str]:
    with pooling_shim(token_engine) as url:
        yield url


def ask(shim: str, path: str = "/pooling", **body: Any) -> httpx.Response:
    return httpx.post(f"{shim}{path}", json={"model": MODEL, **body}, timeout=PATIENCE_S)


def rows(answer: httpx.Response) -> list[npt.NDArray[np.float64]]:
    """Of each text what /pooling gives."""
    found = answer.json()
    assert answer.status_code == 200 and found["object"] == "list" and found["id"].startswith("pooling-"), found
    assert [(each["index"], each["object"]) for each in found["data"]] == [
        (index, "pooling") for index in range(len(found["data"]))
    ]
    return [np.array(each["data"]) for each in found["data"]]


def check(found: list[npt.NDArray[np.float64]], outputs: Any) -> None:
    assert len(found) == len(outputs)
    for one, output in zip(found, outputs, strict=True):
        np.testing.assert_allclose(one, output.outputs.data, atol=TOLERANCE)


def test_vectors_of_texts_and_of_their_tokens(embedding_shim: str, llm: LLM, rng: np.random.Generator) -> None:
    texts = [random_text(rng) + "dog" for _ in range(int(rng.integers(2, 9)))]
    for body, options in (
        ({}, PoolingParams()),
        ({"task": "embed", "dimensions": 3}, PoolingParams(dimensions=3)),
        ({"task": "token_embed"}, PoolingParams(task="token_embed")),
        ({"task": "token_embed", "dimensions": 2}, PoolingParams(task="token_embed", dimensions=2)),
    ):
        outputs = llm.encode(texts, options, use_tqdm=False)
        answer = ask(embedding_shim, input=texts, **body)
        check(rows(answer), outputs)
        assert answer.json()["usage"]["total_tokens"] == sum(len(output.prompt_token_ids) for output in outputs)
    (alone,) = llm.encode(texts[0], pooling_task="token_embed", use_tqdm=False)
    (of_ids,) = rows(ask(embedding_shim, input=alone.prompt_token_ids, task="token_embed"))
    np.testing.assert_allclose(of_ids, alone.outputs.data, atol=TOLERANCE)
    (packed,) = ask(embedding_shim, input=texts[0], task="token_embed", encoding_format="base64").json()["data"]
    flat = np.frombuffer(base64.b64decode(packed["data"]), "<f4")
    np.testing.assert_allclose(flat.reshape(of_ids.shape), of_ids, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""], "task": "token_embed"}, "input.1"),
        ({"input": "a", "task": "token_classify"}, "task"),
        ({"input": "a", "task": "plugin"}, "task"),
        ({"input": "a", "use_activation": True}, "use_activation"),
        ({"input": "a", "use_activation": True, "activation": False}, "activation"),
        ({"input": "a", "dimensions": 10**6}, "dimensions"),
        ({"input": "a", "encoding_format": "bytes"}, "encoding_format"),
        ({"input": "a", "data": {"x": 1}}, "data"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"input": "a", "softmax": True}, "softmax"),
    ],
)
def test_bad_input_is_an_error_that_names_it(embedded_embedding_shim: str, body: dict[str, Any], param: str) -> None:
    answer = ask(embedded_embedding_shim, **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def check_classes(shim: str, engine: Path, rng: np.random.Generator) -> None:
    texts = [random_text(rng) + "dog" for _ in range(int(rng.integers(2, 9)))] + ["a"]
    with LLM(engine, threads=1) as llm:
        asked: list[dict[str, Any]] = [{}, {"task": "token_classify", "use_activation": False}]
        for body in asked:
            params = PoolingParams(use_activation=body.get("use_activation"))
            check(rows(ask(shim, input=texts, **body)), llm.encode(texts, params, use_tqdm=False))


def test_classes_of_tokens(classes: str, token_engine: Path, rng: np.random.Generator) -> None:
    check_classes(classes, token_engine, rng)
    (model,) = httpx.get(f"{classes}/v1/models", timeout=PATIENCE_S).json()["data"]
    assert model["task"] == "token_classify" and model["labels"][0] == "LABEL_0"
    for path, body in (("/classify", {"input": "a"}), ("/v1/embeddings", {"input": "a"})):
        answer = ask(classes, path, **body)
        message = answer.json()["error"]["message"]
        assert answer.status_code == 400 and message.endswith("classifies single tokens: /pooling."), message
    assert ask(classes, input="a", task="token_embed").json()["error"]["param"] == "task"


@pytest.mark.slow
def test_classes_of_tokens_over_triton(
    installation: TritonInstallation, token_engine: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The fast tests have vectors of tokens there, which travel alike."""
    with (
        running_triton(installation, token_engine, tmp_path, {"threads": "1"}) as server,
        running_shim(token_engine, TritonPooling(server.address.grpc_url)) as shim,
    ):
        check_classes(shim, token_engine, rng)


def test_other_engines_name_their_tasks(scoring_shim: str, embedded_shim: str) -> None:
    (found,) = rows(ask(scoring_shim, input="a fox"))
    (same,) = ask(scoring_shim, "/classify", input="a fox").json()["data"]
    assert found.tolist() == pytest.approx(same["probs"])
    assert ask(scoring_shim, input="a fox", task="token_embed").json()["error"]["param"] == "task"
    assert "generates text" in ask(embedded_shim, input="a").json()["error"]["message"]

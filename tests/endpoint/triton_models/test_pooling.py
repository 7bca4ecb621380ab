"""The Triton model of an engine that embeds, through tritonclient and plain HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from inflight.runtime import LLM
from inflight.triton_backend.launch.repository import write_repository
from inflight.triton_backend.launch.repository_check import check_repository
from inflight.triton_backend.launch.server import TritonServer
from tests.models.tiny_tokenizers import random_text
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def llm(embedding_engine: Path) -> Iterator[LLM]:
    with LLM(embedding_engine, threads=1) as opened:
        yield opened


def vectors(llm: LLM, prompts: Any, **options: Any) -> Any:
    return np.array([each.outputs.embedding for each in llm.embed(prompts, use_tqdm=False, **options)])


@pytest.fixture(params=["grpc", "http"])
def infer(request: pytest.FixtureRequest, embedding_triton: TritonServer) -> Iterator[Any]:
    module: Any = triton_grpc if request.param == "grpc" else triton_http
    address = embedding_triton.address
    url = address.grpc_url if request.param == "grpc" else address.http_url.removeprefix("http://")
    with module.InferenceServerClient(url) as client:

        def call(**tensors: Any) -> Any:
            inputs = []
            for name, array in tensors.items():
                inputs.append(module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
                inputs[-1].set_data_from_numpy(array)
            return client.infer("pooling", inputs)

        yield call


def texts(*given: str) -> Any:
    return np.array([each.encode() for each in given], dtype=object)


def test_texts_and_ids_have_the_vectors_of_the_offline_interface(
    infer: Any, llm: LLM, rng: np.random.Generator
) -> None:
    given = [random_text(rng) + "fox" for _ in range(int(rng.integers(1, 12)))]
    answer = infer(text_input=texts(*given))
    np.testing.assert_allclose(answer.as_numpy("pooled_output"), vectors(llm, given), atol=TOLERANCE)
    lengths = answer.as_numpy("num_input_tokens")
    assert lengths.tolist() == [len(llm.tokenizer.encode(each)) for each in given]
    ids = [[int(token) for token in rng.integers(4, 100, length)] for length in (1, 9, 100)]
    flat, counts = np.concatenate(ids).astype(np.int32), np.array([len(each) for each in ids], np.int32)
    answer = infer(input_ids=flat, input_lengths=counts)
    np.testing.assert_allclose(answer.as_numpy("pooled_output"), vectors(llm, ids), atol=TOLERANCE)
    answer = infer(text_input=texts("fox " * 300), truncate_prompt_tokens=np.array([-1], np.int32))
    assert answer.as_numpy("num_input_tokens").tolist() == [100]
    answer = infer(text_input=texts(*given), each_token=np.array([True]))
    outputs = llm.encode(given, pooling_task="token_embed", use_tqdm=False)
    rows = np.concatenate([each.outputs.data for each in outputs])
    np.testing.assert_allclose(answer.as_numpy("pooled_output"), rows, atol=TOLERANCE)
    assert answer.as_numpy("num_input_tokens").tolist() == lengths.tolist()


def test_bad_requests_are_refused_and_the_next_is_served(infer: Any) -> None:
    number = np.array([5], np.int32)
    for bad in (
        {"text_input": texts("")},
        {"text_input": texts("fox " * 300)},
        {"text_input": np.array([b"\xff"], dtype=object)},
        {"text_input": texts("fox", "dog", "cat"), "text_pair": texts("a", "b")},
        {"text_input": texts("fox"), "input_ids": number, "input_lengths": np.array([1], np.int32)},
        {"input_ids": number, "input_lengths": np.array([2], np.int32)},
        {"input_ids": np.array([-1], np.int32)},
        {"input_ids": np.array([100_000], np.int32)},
        {"input_ids": number, "token_type_ids": np.array([7], np.int32)},
        {"input_ids": np.zeros(0, np.int32)},
        {"text_input": texts("fox"), "input_ids": number},
        {"text_input": texts("fox"), "token_type_ids": number * 0},
        {"text_pair": texts("fox")},
        {"text_pair": texts("fox"), "input_ids": number},
        {"token_type_ids": number * 0},
        {"input_lengths": number * 0},
        {},
    ):
        with pytest.raises(InferenceServerException) as raised:
            infer(**bad)
        assert raised.value.message() and "Traceback" not in raised.value.message()
    assert infer(text_input=texts("fox")).as_numpy("pooled_output").shape[0] == 1


def test_generate_answers_too(embedding_triton: TritonServer, llm: LLM) -> None:
    url = f"{embedding_triton.address.http_url}/v2/models/pooling/generate"
    answer = httpx.post(url, json={"text_input": "a lazy fox"}, timeout=PATIENCE_S).json()
    np.testing.assert_allclose(answer["pooled_output"], vectors(llm, "a lazy fox")[0], atol=TOLERANCE)


def test_the_repository_passes_its_check(embedding_engine: Path, tmp_path: Path) -> None:
    path = write_repository(embedding_engine, tmp_path / "models").path
    assert [each.name for each in path.iterdir()] == ["pooling"]
    assert check_repository(path) == []

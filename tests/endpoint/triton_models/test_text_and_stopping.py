"""What ends a text, and how, is the same at every front: the OpenAI API over both backends, ensemble and bls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.conftest import MODEL
from tests.endpoint.triton_calls import ids, stream, texts

pytestmark = pytest.mark.endpoint

# Some special token is among so many of a vocabulary of 400.
LONG = 4_000


@pytest.fixture(scope="module")
def tokenizer(engine: Path) -> Tokenizer:
    return load_tokenizer(engine / "tokenizer")


def until(tokenizer: Tokenizer, free: list[int], piece: str) -> str:
    """The text before the first special token of this name."""
    assert tokenizer.token_id(piece) in free
    return tokenizer.decode(free[: free.index(tokenizer.token_id(piece) or -1)])


@pytest.mark.parametrize("piece", ["<s>", "</s>"])
def test_the_models_of_triton_stop_at_a_special_token(
    triton: TritonServer, tokenizer: Tokenizer, piece: str, seed: int
) -> None:
    prompt = f"the fox {seed}"
    (raw,) = stream(
        triton, "tensorrt_llm", ids(tokenizer.encode(prompt), LONG, end_id=-1, exclude_input_in_output=True)
    )
    expected = until(tokenizer, [int(token) for token in raw["output_ids"].reshape(-1)], piece)
    asked = {"text_input": prompt, "max_tokens": LONG, "end_id": -1, "stop_words": [piece]}
    for model in ("ensemble", "tensorrt_llm_bls"):
        for options in ({"exclude_input_in_output": True}, {"stream": True}):
            answers = stream(triton, model, {**asked, **options, "return_finish_reason": True})
            assert "".join(texts(answers)) == expected
            assert answers[-1]["finish_reason"].tolist() == [[b"stop"]]
    (whole,) = texts(stream(triton, "tensorrt_llm_bls", {**asked, "exclude_input_in_output": False}))
    assert whole == tokenizer.decode(tokenizer.encode(prompt)) + expected


@pytest.mark.parametrize("piece", ["<s>", "</s>"])
def test_the_openai_api_stops_at_a_special_token(shim: str, tokenizer: Tokenizer, piece: str, seed: int) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": f"the fox {seed}", "max_tokens": LONG, "temperature": 0}
    more = {"ignore_eos": True}
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        free = client.completions.create(**asked, extra_body={**more, "return_token_ids": True}).choices[0]
        before = until(tokenizer, free.model_extra["token_ids"], piece)
        for keep in (False, True):
            body = {**more, "include_stop_str_in_output": keep}
            whole = client.completions.create(**asked, stop=piece, extra_body=body).choices[0]
            chunks = [
                chunk.choices[0]
                for chunk in client.completions.create(**asked, stop=piece, extra_body=body, stream=True)
            ]
            for text, last in ((whole.text, whole), ("".join(chunk.text for chunk in chunks), chunks[-1])):
                assert text == before + (piece if keep else "")
                assert (last.finish_reason, last.model_extra["stop_reason"]) == ("stop", piece)


def test_counts_and_log_probabilities_end_where_the_stop_word_is_complete(
    triton: TritonServer, tokenizer: Tokenizer, seed: int
) -> None:
    """Whatever the engine had made by the time it was stopped."""
    prompt = f"the fox {seed}"
    counts = dict.fromkeys(("return_log_probs", "return_num_output_tokens"), True)
    asked = {"text_input": prompt, "max_tokens": 600, "end_id": -1, "exclude_input_in_output": True, **counts}
    raw = ids(tokenizer.encode(prompt), 600, end_id=-1, exclude_input_in_output=True, **counts)
    (free,) = stream(triton, "tensorrt_llm", raw)
    tokens = [int(token) for token in free["output_ids"].reshape(-1)]
    word = tokenizer.decode(tokens)[11:14]
    num_tokens = next(count for count in range(len(tokens)) if word in tokenizer.decode(tokens[:count]))
    log_probs = free["output_log_probs"][0, 0, :num_tokens]
    for model, streaming in [
        ("tensorrt_llm_bls", False),
        ("tensorrt_llm_bls", True),
        ("tensorrt_llm_bls_unary", False),
    ]:
        answers = stream(triton, model, {**asked, "stop_words": [word], "stream": streaming})
        assert sum(int(answer["num_output_tokens"][0, 0]) for answer in answers) == num_tokens
        assert np.array_equal(answers[-1]["output_log_probs"][0, 0], log_probs)
        assert answers[-1]["cum_log_probs"][0, 0] == pytest.approx(float(log_probs.sum()), rel=1e-5)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_a_row_of_a_batch_is_answered_as_when_it_comes_alone(
    triton: TritonServer, rng: np.random.Generator, model: str
) -> None:
    flags = ["exclude_input_in_output", "return_finish_reason", "return_log_probs", "stream", "return_stop_reason"]
    flags += ["return_num_output_tokens", "return_num_input_tokens"]
    rows = [{name: bool(rng.integers(2)) for name in flags} for _ in range(4)]
    rows = [{**row, "text_input": f"fox {rng.integers(1 << 30)}", "max_tokens": 9, "end_id": -1} for row in rows]

    def array(values: list[Any]) -> Any:
        kinds: dict[type, Any] = {bool: np.bool_, int: np.int32, str: np.object_}
        return np.array([[v.encode() if isinstance(v, str) else v] for v in values], kinds[type(values[0])])

    answers = stream(triton, model, {name: array([row[name] for row in rows]) for name in rows[0]})
    for index, row in enumerate(rows):
        found = joined([answer for answer in answers if answer["batch_index"][0, 0] == index])
        assert found == joined(stream(triton, model, row)), row


def joined(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What one row's answers say together, however many they are, and which outputs they have."""
    outputs: dict[str, Any] = {"text": "".join(texts(answers))}
    for name in sorted(answers[-1].keys() - {"text_output", "batch_index"}):
        outputs[name] = answers[-1][name].tolist()
    if "num_output_tokens" in outputs:
        outputs["num_output_tokens"] = sum(int(answer["num_output_tokens"][0, 0]) for answer in answers)
    return outputs


def test_a_top_p_of_zero_means_the_same_at_every_front(triton: TritonServer, shim: str, seed: int) -> None:
    """The likeliest token alone, as OpenAI's clients mean it; beside a top_k no filter, as NVIDIA's clients do."""
    prompt = f"the fox {seed}"

    def over_http(**sampling: Any) -> str:
        body = {"ignore_eos": True, "seed": 5, **sampling}
        with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
            answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=20, extra_body=body)
            return str(answer.choices[0].text)

    assert over_http(top_p=0) == over_http(top_p=0, top_k=1) == over_http(top_k=1)
    assert over_http(top_p=0, top_k=9) == over_http(top_k=9)
    asked = {
        "text_input": prompt,
        "max_tokens": 20,
        "end_id": -1,
        "exclude_input_in_output": True,
        "seed": np.array([[5]], np.uint64),
    }
    for model in ("ensemble", "tensorrt_llm_bls"):
        answers = [texts(stream(triton, model, {**asked, "top_k": 9, **more})) for more in ({}, {"top_p": 0.0})]
        assert answers == [[over_http(top_k=9)]] * 2


def test_a_stop_string_that_asks_for_nothing_is_none(shim: str) -> None:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        for stop in ("", [], [""]):
            answer = client.completions.create(
                model=MODEL, prompt="fox", max_tokens=7, stop=stop, extra_body={"ignore_eos": True}
            )
            assert (answer.choices[0].finish_reason, answer.usage and answer.usage.completion_tokens) == ("length", 7)

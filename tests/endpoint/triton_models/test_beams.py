"""Beam search over Triton and over the API: the sequences of LLM.beam_search, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from tritonclient.utils import InferenceServerException

from inflight.runtime import LLM, BeamSearchParams
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.triton_calls import Stream, ids, stream
from tests.engines.demo_engine import random_questions
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.fixture(scope="module")
def llm(demo_engine: Path) -> Iterator[LLM]:
    with LLM(demo_engine, kv_cache=KvCacheBudget(tokens=8192)) as llm:
        yield llm


@pytest.fixture
def asked(rng: np.random.Generator, llm: LLM) -> tuple[list[int], BeamSearchParams]:
    ((question, _),) = random_questions(rng, 1)
    prompt = llm.tokenizer.encode_chat([{"role": "user", "content": question}])
    width, tokens = int(rng.integers(2, 5)), int(rng.integers(4, 16))
    return prompt, BeamSearchParams(width, tokens, length_penalty=float(rng.choice([0.0, 1.0, 2.0])))


def as_float32(values: list[float]) -> Any:
    return np.array(values, dtype=np.float32).tolist()


def generated(llm: LLM, prompt: list[int], params: BeamSearchParams) -> list[tuple[list[int], list[float], float]]:
    """Tokens of each sequence without an end token, their log probabilities, and the sum with that of the end token."""
    (output,) = llm.beam_search([{"prompt_token_ids": prompt}], params)
    found = []
    for each in output.sequences:
        tokens = each.tokens[len(prompt) :]
        logprobs = [entry[token].logprob for entry, token in zip(each.logprobs, tokens, strict=True)]
        shown = len(tokens) - (each.finish_reason == "stop")
        found.append((tokens[:shown], logprobs[:shown], each.cum_logprob))
    return found


@pytest.mark.parametrize("model", ["tensorrt_llm", "tensorrt_llm_unary"])
def test_ids_have_the_shapes_of_tensorrt_llm(
    demo_triton: TritonServer, llm: LLM, asked: tuple[list[int], BeamSearchParams], model: str
) -> None:
    prompt, params = asked
    expected = generated(llm, prompt, params)
    beams = {"beam_width": params.beam_width, "len_penalty": params.length_penalty, "return_log_probs": True}
    # What NVIDIA's clients always send.
    usual = {"temperature": 1.0, "runtime_top_k": 1, "runtime_top_p": 0.0, "return_finish_reason": True}
    (found,) = stream(demo_triton, model, ids(prompt, params.max_tokens, **beams, **usual))
    longest = max(len(tokens) for tokens, _, _ in expected)
    assert found["output_ids"].shape == (1, params.beam_width, len(prompt) + longest)
    assert found["output_log_probs"].shape == (1, params.beam_width, longest)
    assert found["cum_log_probs"].shape == found["sequence_length"].shape == (1, params.beam_width)
    for beam, (tokens, logprobs, total) in enumerate(expected):
        length = int(found["sequence_length"][0, beam])
        assert found["output_ids"][0, beam, :length].tolist() == prompt + tokens
        assert (found["output_ids"][0, beam, length:] == -1).all()
        assert found["output_log_probs"][0, beam, : len(tokens)].tolist() == as_float32(logprobs)
        assert found["cum_log_probs"][0, beam] == np.float32(total)
    reasons = found["finish_reason"].reshape(-1).tolist()
    assert len(reasons) == params.beam_width and set(reasons) <= {b"stop", b"length"}


@pytest.mark.parametrize("suffix", ["", "_unary"])
@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_text_has_a_string_for_each_beam(
    demo_triton: TritonServer, llm: LLM, rng: np.random.Generator, model: str, suffix: str
) -> None:
    text, width = "Once upon a " + str(rng.choice(["time", "file", "list"])), int(rng.integers(2, 5))
    prompt = llm.tokenizer.encode(text)
    expected = generated(llm, prompt, BeamSearchParams(width, 9, length_penalty=1.0))
    body: dict[str, Any] = {"text_input": text, "max_tokens": 9, "beam_width": width, "length_penalty": 1.0}
    for excluded in (True, False):
        more = {"exclude_input_in_output": excluded, "return_log_probs": True}
        (found,) = stream(demo_triton, model + suffix, {**body, **more})
        before = [] if excluded else prompt
        assert [each.decode() for each in found["text_output"]] == [
            llm.tokenizer.decode([*before, *tokens]) for tokens, _, _ in expected
        ]
        assert found["cum_log_probs"].reshape(-1).tolist() == as_float32([total for _, _, total in expected])


def test_a_batch_mixes_searches_with_others(demo_triton: TritonServer, llm: LLM) -> None:
    prompts = ["Once upon a time", "A list of"]
    texts = np.array([[each.encode()] for each in prompts], dtype=object)
    batch = {
        "text_input": texts,
        "max_tokens": np.full((2, 1), 6, dtype=np.int32),
        "beam_width": np.array([[3], [1]], dtype=np.int32),
        "exclude_input_in_output": np.full((2, 1), True),
    }
    for model in ("ensemble", "tensorrt_llm_bls"):
        found = {
            int(each["batch_index"][0, 0]): each["text_output"].tolist() for each in stream(demo_triton, model, batch)
        }
        plain = {"text_input": prompts[1], "max_tokens": 6, "exclude_input_in_output": True}
        (alone,) = stream(demo_triton, model, plain)
        sequences = generated(llm, llm.tokenizer.encode(prompts[0]), BeamSearchParams(3, 6, length_penalty=0.0))
        assert found[0] == [llm.tokenizer.decode(tokens).encode() for tokens, _, _ in sequences]
        assert found[1] == alone["text_output"].tolist()


def test_what_beams_cannot_do_is_refused_by_name(demo_triton: TritonServer) -> None:
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"streaming": True}, "streaming is set; beam search"),
        ({"temperature": 0.5, "runtime_top_k": 4}, "temperature is 0.5"),
        ({"runtime_top_k": 4}, "top_k is 4"),
        ({"len_penalty": 101.0}, "len_penalty is 101"),
        ({"beam_width": 60}, "beam_width is 60; with 1 end tokens"),
        ({"num_return_sequences": 4}, "num_return_sequences is 4"),
        ({"early_stopping": True}, "early_stopping"),
        ({"repetition_penalty": 1.5}, "repetition_penalty is 1.5"),
    ]
    for wrong, words in wrongs:
        with pytest.raises(InferenceServerException, match=words):
            stream(demo_triton, "tensorrt_llm", ids([7, 8], 4, **{"beam_width": 3, **wrong}))
    for model in ("ensemble", "tensorrt_llm_bls"):
        text = {"text_input": "fox", "max_tokens": 4, "beam_width": 2}
        with pytest.raises(InferenceServerException, match="stream is set; beam search"):
            stream(demo_triton, model, {**text, "stream": True})
        with pytest.raises(InferenceServerException, match="stop_words has words; beam search"):
            stream(demo_triton, model, {**text, "stop_words": "x"})


def test_a_search_whose_client_stops_it_answers_with_what_it_has(demo_triton: TritonServer) -> None:
    with Stream(demo_triton) as opened, Stream(demo_triton) as other:
        for attempt in range(20):  # a search of so small a model may be over, or not begun, when it is stopped
            opened.send("tensorrt_llm", ids([7, 8], 900, beam_width=4, ignore_eos=True), request_id=f"search{attempt}")
            other.send("tensorrt_llm", {**ids([0], 0), "stop": True}, request_id=f"search{attempt}")
            other.receive()
            found, final = opened.receive()
            assert final and found["output_ids"].shape[:2] == (1, 4)
            if found["output_ids"].shape[2] < 900:
                return
    raise AssertionError("no search was stopped")


@pytest.mark.parametrize("mode", ["embedded_demo", "triton_demo"])
def test_completions_take_vllms_names(
    request: pytest.FixtureRequest, llm: LLM, asked: tuple[list[int], BeamSearchParams], mode: str
) -> None:
    url, (prompt, params) = request.getfixturevalue(mode), asked
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=PATIENCE_S, max_retries=0)
    beams = {"use_beam_search": True, "length_penalty": params.length_penalty}

    def complete(**more: Any) -> Any:
        asked = {"n": params.beam_width, "max_tokens": params.max_tokens, "extra_body": beams, **more}
        return client.completions.create(model="any", prompt=prompt, **asked)

    answer, expected = complete(logprobs=0), generated(llm, prompt, params)
    assert [choice.text for choice in answer.choices] == [llm.tokenizer.decode(tokens) for tokens, _, _ in expected]
    for choice, (tokens, logprobs, _) in zip(answer.choices, expected, strict=True):
        assert choice.logprobs.token_logprobs[: len(tokens)] == as_float32(logprobs)
        assert choice.finish_reason == ("length" if len(choice.logprobs.tokens) == len(tokens) else "stop")
    assert [choice.text for choice in complete(temperature=0).choices] == [choice.text for choice in answer.choices]
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"stream": True}, "stream"),
        ({"temperature": 0.5}, "temperature is 0.5"),
        ({"logprobs": 2}, "logprobs is 2"),
        ({"stop": ["x"]}, "stop"),
        ({"best_of": params.beam_width + 1}, "best_of"),
        ({"n": 60}, "n is 60"),
        ({"extra_body": {**beams, "length_penalty": 1e9}}, "length_penalty is"),
        ({"extra_body": {"length_penalty": 0.5}}, "length_penalty"),
    ]
    for wrong, words in wrongs:
        with pytest.raises(openai.BadRequestError, match=words):
            complete(**wrong)

"""The model `tensorrt_llm` on a real Triton server: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from inflight.runtime.offline.llm import LLM
from inflight.runtime.sampling.params import SamplingParams
from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.triton_calls import Stream, ids, make_inputs, metric, stream, used_blocks
from tests.patience import eventually

pytestmark = pytest.mark.endpoint

LONG = 60_000


@pytest.fixture
def prompt(rng: np.random.Generator) -> list[int]:
    return [int(token) for token in rng.integers(6, 200, size=int(rng.integers(1, 40)))]


@pytest.fixture(scope="module")
def offline(engine: Any) -> Iterator[LLM]:
    with LLM(engine) as llm:
        yield llm


def greedy_tokens(llm: LLM, prompt: list[int], **params: Any) -> list[int]:
    (output,) = llm.generate([prompt], SamplingParams(temperature=0, **params), use_tqdm=False)
    return list(output.outputs[0].token_ids)


def joined(responses: list[dict[str, Any]]) -> list[int]:
    return [int(token) for response in responses for token in response["output_ids"].reshape(-1)]


def test_a_stream_has_only_new_tokens_and_they_are_the_engines_own(
    triton: TritonServer, offline: LLM, prompt: list[int]
) -> None:
    responses = stream(triton, "tensorrt_llm", ids(prompt, 40, streaming=True, end_id=-1))
    assert joined(responses) == greedy_tokens(offline, prompt, max_tokens=40, ignore_eos=True)
    assert all(r["output_ids"].shape == (1, 1, r["sequence_length"][0, 0]) for r in responses)


def test_a_single_response_begins_with_the_prompt_unless_it_is_excluded(
    triton: TritonServer, offline: LLM, prompt: list[int]
) -> None:
    expected = greedy_tokens(offline, prompt, max_tokens=12, ignore_eos=True)
    (whole,) = stream(triton, "tensorrt_llm", ids(prompt, 12, end_id=-1))
    assert joined([whole]) == prompt + expected
    assert whole["sequence_length"].tolist() == [[len(prompt) + 12]]
    (excluded,) = stream(triton, "tensorrt_llm", ids(prompt, 12, end_id=-1, exclude_input_in_output=True))
    assert joined([excluded]) == expected


def test_the_models_end_token_ends_the_output_and_is_not_part_of_it(
    triton: TritonServer, offline: LLM, prompt: list[int]
) -> None:
    end_tokens = offline.manifest.generation.end_token_ids
    responses = stream(
        triton, "tensorrt_llm", ids(prompt, 2000, streaming=True, end_id=end_tokens[0], return_finish_reason=True)
    )
    assert not set(joined(responses)) & set(end_tokens)
    assert responses[-1]["finish_reason"].tolist() == [[b"stop"]]


def test_a_stop_word_ends_the_output_and_is_its_last_part(
    triton: TritonServer, offline: LLM, prompt: list[int]
) -> None:
    tokens = greedy_tokens(offline, prompt, max_tokens=60, ignore_eos=True)
    word = tokens[20:23]
    end = next(i for i in range(len(tokens)) if tokens[i : i + 3] == word) + 3
    table = np.array([[[*word, 0], [3, -1, -1, -1]]], dtype=np.int32)
    responses = stream(triton, "tensorrt_llm", ids(prompt, 60, streaming=True, end_id=-1, stop_words_list=table))
    assert joined(responses) == tokens[:end]


def test_rows_of_a_batch_are_answered_apart_with_their_index(
    triton: TritonServer, offline: LLM, rng: np.random.Generator
) -> None:
    prompts = [[int(t) for t in rng.integers(6, 200, size=n)] for n in (3, 9, 5)]
    padded = np.array([p + [0] * (9 - len(p)) for p in prompts], dtype=np.int32)
    lengths = np.array([[len(p)] for p in prompts], dtype=np.int32)
    inputs = {"input_ids": padded, "input_lengths": lengths, "request_output_len": np.full((3, 1), 7, np.int32)}
    inputs["end_id"] = np.full((3, 1), -1, np.int32)
    inputs["exclude_input_in_output"] = np.ones((3, 1), bool)
    responses = stream(triton, "tensorrt_llm", inputs)
    found = {int(r["batch_index"][0, 0]): joined([r]) for r in responses}
    assert found == {i: greedy_tokens(offline, p, max_tokens=7, ignore_eos=True) for i, p in enumerate(prompts)}


def test_several_sequences_carry_their_index_and_repeat_with_the_seed(triton: TritonServer, prompt: list[int]) -> None:
    request = ids(prompt, 6, num_return_sequences=3, runtime_top_p=1.0, exclude_input_in_output=True, end_id=-1)
    request["seed"] = np.array([[17]], dtype=np.uint64)
    runs = [
        {int(r["sequence_index"][0, 0]): joined([r]) for r in stream(triton, "tensorrt_llm", request)} for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert sorted(runs[0]) == [0, 1, 2]
    assert len({tuple(tokens) for tokens in runs[0].values()}) == 3


def test_only_what_was_asked_for_is_returned(triton: TritonServer, prompt: list[int]) -> None:
    (plain,) = stream(triton, "tensorrt_llm", ids(prompt, 4))
    assert sorted(plain) == ["output_ids", "sequence_length"]
    flags = dict.fromkeys(("return_log_probs", "return_perf_metrics", "return_num_output_tokens"), True)
    (full,) = stream(triton, "tensorrt_llm", ids(prompt, 4, end_id=-1, exclude_input_in_output=True, **flags))
    assert full["output_log_probs"].shape == (1, 1, 4)
    assert full["cum_log_probs"][0, 0] == pytest.approx(full["output_log_probs"].sum())
    assert full["num_output_tokens"].tolist() == [[4]]
    assert full["kv_cache_alloc_total_blocks"][0, 0] >= 1
    assert full["first_token_time_ns"][0, 0] >= full["arrival_time_ns"][0, 0] > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("early_stopping", True),
        ("draft_input_ids", [1, 2]),
        ("lora_task_id", np.array([[1]], dtype=np.uint64)),
        ("guided_decoding_guide_type", "structural_tag"),
        ("return_context_logits", True),
        ("len_penalty", 1.5),
        ("runtime_top_p_decay", 0.5),
    ],
)
def test_an_input_that_the_engine_cannot_honour_is_refused_by_name(
    triton: TritonServer, prompt: list[int], name: str, value: Any
) -> None:
    with pytest.raises(InferenceServerException, match=name):
        stream(triton, "tensorrt_llm", ids(prompt, 4, **{name: value}))


def test_a_prompt_that_is_too_long_is_refused_with_both_lengths_and_others_are_unaffected(triton: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match=r"70000 tokens.* 65536"):
        stream(triton, "tensorrt_llm", ids([7] * 70_000, 4))
    assert len(joined(stream(triton, "tensorrt_llm", ids([7], 4, streaming=True, end_id=-1)))) == 4


def test_a_client_that_goes_away_frees_its_blocks(triton: TritonServer, prompt: list[int]) -> None:
    with Stream(triton) as opened:
        opened.send("tensorrt_llm", ids(prompt, LONG, streaming=True, end_id=-1))
        opened.receive()
        assert eventually(lambda: used_blocks(triton) > 0)
        generated = metric(triton, "nv_llm_output_token_len_sum")
    assert eventually(lambda: used_blocks(triton) == 0)
    assert metric(triton, "nv_llm_output_token_len_sum") - generated < LONG


def test_a_stop_request_ends_the_request_of_the_same_id_early(triton: TritonServer, prompt: list[int]) -> None:
    with Stream(triton) as opened:
        opened.send("tensorrt_llm", ids(prompt, LONG, end_id=-1, exclude_input_in_output=True), request_id="mine")
        assert eventually(lambda: used_blocks(triton) > 0)
        stop = {"input_ids": [0], "input_lengths": 0, "request_output_len": 0, "stop": True}
        opened.send("tensorrt_llm", stop, request_id="mine")
        answers = [opened.receive(), opened.receive()]
    assert all(final for _, final in answers)
    assert sorted(len(tensors) for tensors, _ in answers) == [0, 2]
    (tokens,) = [joined([tensors]) for tensors, _ in answers if tensors]
    assert 0 < len(tokens) < LONG


def test_a_stop_request_without_an_id_is_an_error(triton: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match="request id must be provided"):
        stream(triton, "tensorrt_llm", {"input_lengths": 0, "request_output_len": 0, "stop": True})


def test_unary_grpc_and_http_work_when_the_repository_is_not_decoupled(
    plain_triton: TritonServer, offline: LLM, prompt: list[int]
) -> None:
    request = ids(prompt, 9, end_id=-1)
    urls = {
        triton_http: plain_triton.address.http_url.removeprefix("http://"),
        triton_grpc: plain_triton.address.grpc_url,
    }
    for module, url in urls.items():
        with module.InferenceServerClient(url) as client:
            tokens = client.infer("tensorrt_llm", make_inputs(module, request)).as_numpy("output_ids")[0, 0]
            assert tokens.tolist() == greedy_tokens(offline, prompt, max_tokens=9, ignore_eos=True)
            with pytest.raises(InferenceServerException, match="Streaming is only supported in decoupled mode"):
                client.infer("tensorrt_llm", make_inputs(module, {**request, "streaming": True}))

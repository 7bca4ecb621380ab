"""Requests and deltas as tensors and back; word lists; text from chunks. No server is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inflight.errors import InflightError, RequestError
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.tensorrt_llm.generation_request import ModelDefaults, read_request
from inflight.triton_backend.tensorrt_llm.refused_inputs import refuse_unsupported
from inflight.triton_backend.tensorrt_llm.response_stream import ResponseStream
from inflight.triton_backend.tensorrt_llm.sequence_output import CONTEXT_LENGTH
from inflight.triton_backend.text_models.postprocessing import decode_batch, decode_chunk
from inflight.triton_backend.wire.request_tensors import RowTensors
from inflight.triton_backend.wire.token_wire import read_delta, request_tensors, stop_tensors
from inflight.triton_backend.wire.word_lists import read_words, write_words
from tests.models.tiny_tokenizers import KINDS

pytestmark = pytest.mark.unit

VOCAB = 300


def random_ids(rng: np.random.Generator, longest: int, shortest: int = 0) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(0, VOCAB, size=int(rng.integers(shortest, longest + 1))))


STRUCTURES = (
    StructuredOutputs(json={"type": "object", "description": "ünïcode"}),
    StructuredOutputs(json_object=True),
    StructuredOutputs(regex="[a-z]+"),
    StructuredOutputs(choice=["a", "b c", "日本"]),
    StructuredOutputs(grammar='root ::= "a"'),
)

REASONING = (
    ReasoningFirst("", "</think>", "</think>"),
    ReasoningFirst("◁think▷", "◁/think▷", "\n◁/think▷", budget=7),
)


def random_request(rng: np.random.Generator) -> Request:
    def f32(low: float, high: float) -> float:
        return float(np.float32(rng.uniform(low, high)))

    params = SamplingParams(
        n=int(rng.integers(1, 4)),
        temperature=float(rng.choice([0.0, f32(0.1, 2)])),
        top_k=int(rng.integers(0, 50)),
        top_p=f32(0.1, 1),
        min_p=f32(0, 1),
        repetition_penalty=f32(0.5, 2),
        presence_penalty=f32(-2, 2),
        frequency_penalty=f32(-2, 2),
        seed=int(rng.integers(0, 2**63)) if rng.random() < 0.7 else None,
        max_tokens=int(rng.integers(20, 100)),
        min_tokens=int(rng.integers(0, 20)),
        stop_token_ids=random_ids(rng, 4),
        ignore_eos=bool(rng.random() < 0.5),
        bad_word_ids=tuple(random_ids(rng, 4, 1) for _ in range(int(rng.integers(0, 4)))),
        logit_bias={token: f32(-5, 5) for token in random_ids(rng, 5)},
        logprobs=int(rng.integers(0, 5)) if rng.random() < 0.5 else None,
        prompt_logprobs=int(rng.integers(0, 5)) if rng.random() < 0.5 else None,
        prompt_logprobs_start=int(rng.integers(0, 5)),
        cache_salt=[None, "tenant", "é世"][rng.integers(3)],
        structured_outputs=[None, *STRUCTURES][rng.integers(len(STRUCTURES) + 1)],
        reasoning=[None, *REASONING][rng.integers(len(REASONING) + 1)],
    )
    return Request("id", random_ids(rng, 30, 1), params, (2, 9), priority=int(rng.integers(-3, 4)))


def random_results(rng: np.random.Generator, ids: tuple[int, ...], num_top: int) -> tuple[TokenResult, ...]:
    def one(token: int) -> TokenResult:
        top = tuple((int(rng.integers(VOCAB)), float(np.float32(-rng.exponential()))) for _ in range(num_top))
        return TokenResult(token, float(np.float32(-rng.exponential())), int(rng.integers(1, VOCAB)), top)

    return tuple(one(token) for token in ids)


class Recorder:
    """A channel that keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.finals: list[bool] = []

    def send(self, tensors: dict[str, Any], final: bool) -> None:
        self.sent.append(tensors)
        self.finals.append(final)

    def send_error(self, error: InflightError) -> None:
        raise AssertionError(str(error))

    def is_cancelled(self) -> bool:
        return False


@pytest.mark.parametrize("round", range(20))
def test_a_request_comes_through_the_wire_as_it_was(rng: np.random.Generator, round: int) -> None:
    request = random_request(rng)
    row = RowTensors(request_tensors(request), 0)
    found = read_request(row, "id", ModelDefaults(request.end_token_ids, VOCAB))
    assert found.request == request
    assert found.stop_words == ()


@pytest.mark.parametrize("round", range(20))
def test_deltas_come_through_the_wire_as_they_were(rng: np.random.Generator, round: int) -> None:
    request = replace(random_request(rng), params=SamplingParams(n=1, max_tokens=90, logprobs=3, prompt_logprobs=2))
    request = replace(request, params=replace(request.params, stop_token_ids=(7,)))
    unscored = int(rng.integers(1, len(request.prompt_token_ids) + 1))
    prompt_logprobs = (None,) * unscored + random_results(rng, request.prompt_token_ids[unscored:], 2)
    parts = [random_ids(rng, 4, 1) for _ in range(int(rng.integers(1, 6)))]
    # A structured output ends without a token that says so.
    ended_by_token = bool(rng.random() < 0.5)
    parts[-1] = (*parts[-1], 7 if ended_by_token else 8)
    deltas = [TokenDelta("id", 0, ids, random_results(rng, ids, 3)) for ids in parts]
    deltas[0] = replace(deltas[0], prompt_logprobs=prompt_logprobs)
    stop_reason = 7 if ended_by_token else None
    deltas[-1] = replace(deltas[-1], finish_reason="stop", stop_reason=stop_reason, ended_by_token=ended_by_token)
    generation = read_request(
        RowTensors(request_tensors(request), 0), "id", ModelDefaults(request.end_token_ids, VOCAB)
    )
    channel = Recorder()
    stream = ResponseStream(channel, [generation], "", lambda prompt, output: None)
    for delta in deltas:
        assert not stream.add(delta)
        stream.send_due()
    assert [read_delta(request, tensors) for tensors in channel.sent] == deltas
    assert channel.finals == [False] * (len(deltas) - 1) + [True]


def test_deltas_that_wait_together_leave_in_one_response(rng: np.random.Generator) -> None:
    request = Request("id", (1, 2), SamplingParams(n=2, max_tokens=50), (2,))
    generation = read_request(RowTensors(request_tensors(request), 0), "id", ModelDefaults((2,), VOCAB))
    channel = Recorder()
    stream = ResponseStream(channel, [generation], "", lambda prompt, output: None)
    for token in range(10, 16):
        stream.add(TokenDelta("id", token % 2, (token,)))
    stream.send_due()
    assert [tensors["output_ids"].tolist() for tensors in channel.sent] == [[[[10, 12, 14]]], [[[11, 13, 15]]]]
    assert [tensors["sequence_index"].tolist() for tensors in channel.sent] == [[[0]], [[1]]]


def test_greedy_is_the_default_and_a_top_p_of_zero_is_unset() -> None:
    base = {"input_ids": np.array([[5]]), "input_lengths": np.array([1]), "request_output_len": np.array([4])}

    def params(**more: float) -> SamplingParams:
        tensors = base | {name: np.array([value]) for name, value in more.items()}
        return read_request(RowTensors(tensors, 0), "id", ModelDefaults((2,), VOCAB)).request.params

    assert params().temperature == 0
    assert params(temperature=0.5, runtime_top_p=0.0).temperature == 0
    assert params(temperature=0.5, runtime_top_k=4, runtime_top_p=0.0) == params(temperature=0.5, runtime_top_k=4)
    assert params(temperature=0.5, runtime_top_p=0.9).top_p == 0.9


def test_end_id_selects_among_all_of_the_models_end_tokens_one_and_none() -> None:
    base = {"input_ids": np.array([[5]]), "input_lengths": np.array([1]), "request_output_len": np.array([4])}

    def ends(end_id: int) -> tuple[tuple[int, ...], bool]:
        tensors = base | {"end_id": np.array([end_id])}
        request = read_request(RowTensors(tensors, 0), "id", ModelDefaults((2, 9), VOCAB)).request
        return request.end_token_ids, request.params.ignore_eos

    assert ends(9) == ((2, 9), False)
    assert ends(50) == ((50,), False)
    assert ends(-1)[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_lengths", np.array([9])),
        ("stop_words_list", np.array([[[1, 2], [2, 1]]])),
        ("embedding_bias", np.ones((1, 3))),
    ],
)
def test_a_contradictory_tensor_is_refused_by_name(name: str, value: Any) -> None:
    base = {"input_ids": np.array([[5]]), "input_lengths": np.array([1]), "request_output_len": np.array([4])}
    with pytest.raises(RequestError, match=name):
        read_request(RowTensors({**base, name: value}, 0), "id", ModelDefaults((2,), VOCAB))


def test_neutral_and_empty_values_of_unsupported_inputs_pass() -> None:
    refuse_unsupported(
        {
            "beam_width": np.array([[1]], dtype=np.int32),
            "len_penalty": np.array([[1.0]], dtype=np.float32),
            "runtime_top_p_min": np.array([[1e-6]], dtype=np.float32),
            "lora_config": np.array([[b""]], dtype=object),
            "draft_input_ids": np.zeros((1, 0), dtype=np.int32),
            "return_context_logits": np.array([[False]]),
        }
    )
    with pytest.raises(RequestError, match="LoRA"):
        refuse_unsupported({"lora_config": np.array([[b"{}"]], dtype=object)})


def test_a_stop_request_names_its_sequence() -> None:
    row = RowTensors(stop_tensors(3), 0)
    assert row.flag("stop")
    assert row.integer("stop_sequence_index") == 3
    assert RowTensors(stop_tensors(None), 0).integer("stop_sequence_index") is None


@pytest.mark.parametrize("round", range(10))
def test_word_lists_read_back_as_they_were_written(rng: np.random.Generator, round: int) -> None:
    rows = [tuple(random_ids(rng, 5, 1) for _ in range(int(rng.integers(0, 5)))) for _ in range(3)]
    table = write_words(rows)
    assert [read_words("words", table[index]) for index in range(3)] == rows


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_decoded_apart_with_their_context_join_to_the_whole_text(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    for _ in range(20):
        ids = [int(token) for token in rng.integers(0, tokenizer.vocab_size, size=int(rng.integers(1, 200)))]
        joined, start = "", 0
        while start < len(ids):
            end = min(len(ids), start + int(rng.integers(1, 6)))
            context = ids[max(0, start - CONTEXT_LENGTH) : start]
            joined += decode_chunk(tokenizer, context, ids[start:end], end == len(ids), True)
            start = end
        assert joined == tokenizer.decode(ids)


@pytest.mark.parametrize("wrong", ["negative", "longer", "fewer beams", "fewer rows", "none"])
def test_lengths_that_are_not_those_of_the_tokens_are_refused(rng: np.random.Generator, wrong: str) -> None:
    batch, beams, longest = (int(size) for size in rng.integers(2, 6, size=3))
    tokens = rng.integers(0, VOCAB, size=(batch, beams, longest)).astype(np.int32)
    lengths = rng.integers(0, longest + 1, size=(batch, beams)).astype(np.int32)
    tokenizer = Tokenizer(KINDS["byte_level"]())
    assert decode_batch(tokenizer, {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": lengths}, True).shape == (batch * beams,)
    place = int(rng.integers(batch)), int(rng.integers(beams))
    if wrong in ("negative", "longer"):
        lengths[place] = -int(rng.integers(1, 9)) if wrong == "negative" else longest + int(rng.integers(1, 9))
    bad = {"fewer beams": lengths[:, 1:], "fewer rows": lengths[1:], "none": lengths[:, :0]}.get(wrong, lengths)
    with pytest.raises(RequestError, match="SEQUENCE_LENGTH"):
        decode_batch(tokenizer, {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": bad}, True)

"""What end_to_end_grpc_client.py and end_to_end_test.py send, and what they check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.triton_calls import make_inputs, stream, texts
from tests.endpoint.triton_clients.nvidia_requests import PERF_OUTPUTS, text_request, words_request

pytestmark = pytest.mark.endpoint

MODELS = ("ensemble", "tensorrt_llm_bls")
TEXT_NAMES = ("text_input", "max_tokens", "bad_words", "stop_words")


@pytest.fixture(params=["_unary", ""], ids=["beside the decoupled", "alone"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(request: pytest.FixtureRequest, suffix: str) -> TritonServer:
    """One whose models with `suffix` are not decoupled."""
    server: TritonServer = request.getfixturevalue("triton" if suffix else "plain_triton")
    return server


@pytest.fixture
def prompt(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(["naïve", "fox", "東京", "🎉", "lazy"], size=int(rng.integers(1, 9))))


def infer(server: TritonServer, protocol: str, model: str, values: dict[str, Any]) -> dict[str, Any]:
    module, url = (http, server.address.http_url[7:]) if protocol == "http" else (grpc, server.address.grpc_url)
    with module.InferenceServerClient(url) as client:
        result = client.infer(model, make_inputs(module, values))
        response = result.get_response()
        outputs = response["outputs"] if protocol == "http" else response.outputs
        names = [output["name"] if protocol == "http" else output.name for output in outputs]
        return {name: result.as_numpy(name) for name in names}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("log_probs", [False, True])
def test_the_three_models_by_hand_give_what_ensemble_and_bls_give(
    server: TritonServer, suffix: str, prompt: str, protocol: str, log_probs: bool
) -> None:
    """end_to_end_test.py passes on what preprocessing returns, DECODER_INPUT_ID among it."""
    asked = {"return_log_probs": True} if log_probs else {}
    names = ("QUERY", "REQUEST_OUTPUT_LEN", "BAD_WORDS_DICT", "STOP_WORDS_DICT")
    encoded = infer(server, protocol, "preprocessing", words_request(prompt, 25, names))
    renamed = {
        "input_ids": "INPUT_ID",
        "decoder_input_ids": "DECODER_INPUT_ID",
        "input_lengths": "REQUEST_INPUT_LEN",
        "request_output_len": "REQUEST_OUTPUT_LEN",
        "end_id": "OUT_END_ID",
        "pad_id": "OUT_PAD_ID",
    }
    values = {name: encoded[theirs] for name, theirs in renamed.items()}
    ids = infer(server, protocol, f"tensorrt_llm{suffix}", {**values, **asked})
    tokens = {"TOKENS_BATCH": ids["output_ids"], "SEQUENCE_LENGTH": ids["sequence_length"]}
    text = infer(server, protocol, "postprocessing", tokens)["OUTPUT"]
    for model in MODELS:
        answer = infer(server, protocol, model + suffix, words_request(prompt, 25, TEXT_NAMES) | asked)
        assert answer["text_output"] == text
        for name in ("cum_log_probs", "output_log_probs") if log_probs else ():
            assert np.array_equal(answer[name], ids[name])


@pytest.mark.parametrize("model", MODELS)
def test_every_response_of_a_stream_has_log_probabilities_and_perf_metrics(
    triton: TritonServer, model: str, prompt: str
) -> None:
    asked = {"return_log_probs": True, "return_perf_metrics": True, "end_id": -1}
    responses = stream(triton, model, text_request(prompt, 2_000, streaming=True, **asked))
    assert len(responses) > 1
    lengths = []
    for response in responses:
        assert {"text_output", "cum_log_probs", "output_log_probs", *PERF_OUTPUTS} <= response.keys()
        assert response["first_token_time_ns"][0][0] > 0
        assert response["text_output"].ndim == 1
        lengths.append(response["output_log_probs"].shape[2])
    assert lengths == sorted(lengths) and lengths[-1] == 2_000
    (whole,) = stream(triton, model, text_request(prompt, 2_000, streaming=False, **asked))
    assert np.array_equal(responses[-1]["output_log_probs"], whole["output_log_probs"])


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_of_prompts_is_answered_in_one(server: TritonServer, suffix: str, model: str) -> None:
    prompts, counts = ["fox", "a lazy dog", "naïve"], [9, 4, 17]
    values: dict[str, Any] = {"text_input": np.array([[prompt.encode()] for prompt in prompts], object)}
    values |= {"max_tokens": np.array([[count] for count in counts], np.int32), "end_id": np.full((3, 1), -1, np.int32)}
    answer = infer(server, "grpc", model + suffix, values)
    assert answer["batch_index"].tolist() == [[0], [1], [2]]
    alone = [
        infer(server, "grpc", model + suffix, {"text_input": prompt, "max_tokens": count, "end_id": -1})["text_output"][
            0
        ]
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    assert answer["text_output"].tolist() == alone


@pytest.mark.parametrize("model", MODELS)
def test_without_max_tokens_the_models_end_token_ends_the_answer(
    triton: TritonServer, server: TritonServer, suffix: str, model: str, prompt: str
) -> None:
    """The answer may be empty: an end token may be the first."""
    asked = {"text_input": prompt, "exclude_input_in_output": True}
    answer = infer(server, "http", model + suffix, {**asked, "temperature": 0.5})
    (decoupled,) = stream(triton, model, asked)
    assert answer["text_output"].tolist() == decoupled["text_output"].tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("top_p", float("nan")),
        ("temperature", float("inf")),
        ("min_length", -3),
        ("min_tokens", -3),
        ("num_return_sequences", -2),
        ("length_penalty", 3.0),
        ("beam_width", -4),
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_a_bad_value_has_one_message_with_the_name_that_was_sent(
    triton: TritonServer, model: str, name: str, value: Any
) -> None:
    for suffix in ("", "_unary"):
        with pytest.raises(InferenceServerException) as refused:
            stream(triton, model + suffix, {"text_input": "fox", "max_tokens": 5, name: value})
        message = refused.value.message().partition(f"'{model + suffix}', ")[2] or refused.value.message()
        assert message.startswith(f"{name} is {value}; ")
        assert message.count(" is ") == 1


@pytest.mark.parametrize("model", MODELS)
def test_the_least_integer_is_no_length(triton: TritonServer, model: str) -> None:
    for suffix in ("", "_unary"):
        with pytest.raises(InferenceServerException, match=r"max_tokens\)? is -2147483648; it must be at least 1"):
            stream(triton, model + suffix, {"text_input": "fox", "max_tokens": -(2**31)})


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_answers_once_names_what_to_send_a_stream_to(
    triton: TritonServer, plain_triton: TritonServer, model: str
) -> None:
    for asked in ({"stream": True}, {"num_return_sequences": 2}):
        values = {"text_input": "fox", "max_tokens": 5, **asked}
        with pytest.raises(InferenceServerException, match=f"Send it to the model {model}, over a gRPC stream"):
            infer(triton, "grpc", f"{model}_unary", values)
        with pytest.raises(InferenceServerException, match="Write the repository with decoupled_mode:true"):
            infer(plain_triton, "grpc", model, values)
    with pytest.raises(
        InferenceServerException, match="return_context_logits is True; this engine supports False only"
    ):
        stream(triton, model, {"text_input": "fox", "max_tokens": 5, "return_context_logits": True})


@pytest.mark.parametrize("model", MODELS)
def test_a_missing_prompt_is_an_error(triton: TritonServer, model: str) -> None:
    with pytest.raises(InferenceServerException, match=r"text_input.* is missing"):
        stream(triton, model, {"max_tokens": 5, "temperature": 0.5})


def test_streamed_chunks_join_to_the_text_of_a_unary_call(triton: TritonServer, prompt: str) -> None:
    for model in MODELS:
        chunks = texts(stream(triton, model, text_request(prompt, 300, streaming=True, end_id=-1)))
        values = text_request(prompt, 300, streaming=False, end_id=-1) | {"exclude_input_in_output": True}
        assert infer(triton, "grpc", f"{model}_unary", values)["text_output"][0].decode() == "".join(chunks)

"""What a model refuses is a request's fault through every model and to the shim, not a failure of the server."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from inflight.errors import EngineError, InflightError, RequestError
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import free_ports
from tests.endpoint.triton_calls import make_inputs

pytestmark = pytest.mark.endpoint


def failure_of(url: str, request: Request) -> InflightError:
    async def ask() -> InflightError:
        backend = TritonBackend(url)
        try:
            async for _ in backend.generate(request):
                pass
        except InflightError as error:
            return error
        finally:
            await backend.close()
        raise AssertionError("it was served")

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ((7,) * 70_000, SamplingParams(max_tokens=4), "The prompt has 70000 tokens; this engine takes"),
        ((1_000_000,), SamplingParams(max_tokens=4), "token id 1000000"),
        ((7,), SamplingParams(max_tokens=4, logit_bias={1_000_000: 1.0}), "logit_bias has the token id 1000000"),
    ],
)
def test_a_request_that_the_model_refuses(
    triton: TritonServer, prompt: tuple[int, ...], params: SamplingParams, message: str
) -> None:
    error = failure_of(triton.address.grpc_url, Request("id", prompt, params))
    assert type(error) is RequestError
    assert message in error.message


def test_a_server_that_is_not_there() -> None:
    (port,) = free_ports(1)
    error = failure_of(f"127.0.0.1:{port}", Request("id", (7,), SamplingParams(max_tokens=4)))
    assert type(error) is EngineError
    assert "Triton cannot be reached" in error.message


@pytest.mark.parametrize("model", ["tensorrt_llm_unary", "ensemble_unary", "tensorrt_llm_bls_unary"])
@pytest.mark.parametrize(
    ("refused", "message"),
    [({"temperature": float("nan")}, "temperature is nan"), ({}, "The prompt has ")],
)
def test_a_refusal_keeps_its_code_on_the_way_through_other_models(
    triton: TritonServer, model: str, refused: dict[str, Any], message: str
) -> None:
    prompt: dict[str, Any] = {"text_input": "fox", "max_tokens": 1 << 30}
    if model == "tensorrt_llm_unary":
        prompt = {"input_ids": [1_000_000, 7]}
    check_refusal(triton, model, prompt | refused, message)


@pytest.mark.parametrize("model", ["ensemble_unary", "tensorrt_llm_bls_unary"])
@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({"text_input": np.array([[b"\xff\xfe"]], object)}, "text_input.* is not valid UTF-8"),
        ({"text_input": "fox " * 2_000_000}, "text_input.* has 8000000 bytes"),
        ({"stop_words": np.array([[b"a"] * 1000], object)}, "stop_words"),
        ({"text_input": "fox", "bad_words": np.array([[b"\xff"]], object)}, "bad_words"),
    ],
)
def test_what_preprocessing_refuses_is_the_requests_fault(
    triton: TritonServer, model: str, refused: dict[str, Any], message: str
) -> None:
    check_refusal(triton, model, {"text_input": "fox", "max_tokens": 5, **refused}, message)


def check_refusal(triton: TritonServer, model: str, values: dict[str, Any], message: str) -> None:
    """A unary client of either protocol gets the status of a bad request."""
    address = triton.address
    clients = (
        (tritonclient.http, address.http_url.removeprefix("http://"), "400"),
        (tritonclient.grpc, address.grpc_url, str(grpc.StatusCode.INVALID_ARGUMENT)),
    )
    for module, url, status in clients:
        with (
            module.InferenceServerClient(url) as client,
            pytest.raises(InferenceServerException, match=message) as error,
        ):
            client.infer(model, make_inputs(module, values))
        assert error.value.status() == status

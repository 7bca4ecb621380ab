"""What the model refuses is a request's fault to the shim, too: a RequestError (400), not a failure of the server."""

from __future__ import annotations

import asyncio

import pytest

from inflight.errors import EngineError, InflightError, RequestError
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import free_ports

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
        ((7,) * 70_000, SamplingParams(max_tokens=4), "70000 tokens; this engine takes 65536"),
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

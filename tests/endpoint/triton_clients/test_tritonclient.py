"""tritonclient in all its forms: http and grpc, asyncio, shared memory, compression."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http
import tritonclient.http.aio as http_aio
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.utils import InferenceServerException

from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.triton_calls import make_inputs, stream, texts, used_blocks
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

MODEL = "tensorrt_llm_bls"
LONG = 60_000


@pytest.fixture
def request_of(rng: np.random.Generator) -> dict[str, Any]:
    return {"text_input": f"naïve 東京 👩‍👩‍👧 {rng.integers(1 << 30)}", "max_tokens": 20, "end_id": -1}


def host(triton: TritonServer) -> str:
    return triton.address.http_url.removeprefix("http://")


def expected(triton: TritonServer, values: dict[str, Any]) -> bytes:
    (text,) = texts(stream(triton, MODEL, values))
    return text.encode()


def test_many_calls_of_asyncio_over_http_and_grpc(triton: TritonServer, request_of: dict[str, Any]) -> None:
    bodies = [{**request_of, "text_input": f"{request_of['text_input']} {number}"} for number in range(12)]

    async def ask() -> tuple[list[bytes], list[bytes]]:
        async with http_aio.InferenceServerClient(host(triton)) as over_http:
            calls = [over_http.infer(f"{MODEL}_unary", make_inputs(http, body)) for body in bodies]
            first = [result.as_numpy("text_output")[0] for result in await asyncio.gather(*calls)]
        async with grpc_aio.InferenceServerClient(triton.address.grpc_url) as over_grpc:
            calls = [over_grpc.infer(f"{MODEL}_unary", make_inputs(grpc, body)) for body in bodies]
            return first, [result.as_numpy("text_output")[0] for result in await asyncio.gather(*calls)]

    first, again = asyncio.run(ask())
    assert first == again == [expected(triton, body) for body in bodies]


def test_a_stream_of_asyncio_is_answered_in_parts_and_left(triton: TritonServer, request_of: dict[str, Any]) -> None:
    async def requests(*bodies: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        for number, body in enumerate(bodies):
            yield {"model_name": MODEL, "inputs": make_inputs(grpc, body), "request_id": str(number)}

    async def ask() -> dict[str, str]:
        found: dict[str, str] = {}
        async with grpc_aio.InferenceServerClient(triton.address.grpc_url) as client:
            bodies = [{**request_of, "stream": True, "max_tokens": count} for count in (3, 30)]
            async for result, error in client.stream_infer(requests(*bodies)):
                assert error is None
                name = result.get_response().id
                found[name] = found.get(name, "") + result.as_numpy("text_output")[0].decode()
            endless = client.stream_infer(requests({**request_of, "stream": True, "max_tokens": LONG}))
            async for _ in endless:
                endless.cancel()
                break
        return found

    found = asyncio.run(ask())
    for name, count in (("0", 3), ("1", 30)):
        whole = {**request_of, "max_tokens": count, "exclude_input_in_output": True}
        assert found[name].encode() == expected(triton, whole)
    assert eventually(lambda: used_blocks(triton) == 0)


def test_a_deadline_of_the_client_ends_the_request(triton: TritonServer, request_of: dict[str, Any]) -> None:
    with grpc.InferenceServerClient(triton.address.grpc_url) as client:
        inputs = make_inputs(grpc, {**request_of, "max_tokens": LONG})
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            client.infer(f"{MODEL}_unary", inputs, client_timeout=0.1)
    assert eventually(lambda: used_blocks(triton) == 0)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_calls(triton: TritonServer, request_of: dict[str, Any], algorithm: str) -> None:
    text = expected(triton, request_of)
    with http.InferenceServerClient(host(triton), network_timeout=PATIENCE_S) as client:
        compressed = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        result = client.infer(f"{MODEL}_unary", make_inputs(http, request_of), request_id="mine", **compressed)
        assert (result.as_numpy("text_output")[0], result.get_response()["id"]) == (text, "mine")
    with grpc.InferenceServerClient(triton.address.grpc_url) as client:
        result = client.infer(f"{MODEL}_unary", make_inputs(grpc, request_of), compression_algorithm=algorithm)
        assert result.as_numpy("text_output")[0] == text


def test_tensors_in_shared_memory(triton: TritonServer, rng: np.random.Generator) -> None:
    prompt = rng.integers(6, 200, size=(1, 9)).astype(np.int32)
    rest = {"request_output_len": 7, "end_id": -1}
    (whole,) = stream(triton, "tensorrt_llm", {"input_ids": prompt, **rest})
    names = [f"{side}-{secrets.token_hex(4)}" for side in ("in", "out")]
    regions = [shared_memory.create_shared_memory_region(name, f"/{name}", 4096) for name in names]
    with http.InferenceServerClient(host(triton), network_timeout=PATIENCE_S) as client:
        try:
            shared_memory.set_shared_memory_region(regions[0], [prompt])
            for name in names:
                client.register_system_shared_memory(name, f"/{name}", 4096)
            ids = http.InferInput("input_ids", list(prompt.shape), "INT32")
            ids.set_shared_memory(names[0], prompt.nbytes)
            wanted = http.InferRequestedOutput("output_ids")
            wanted.set_shared_memory(names[1], 4096)
            result = client.infer("tensorrt_llm_unary", [ids, *make_inputs(http, rest)], outputs=[wanted])
            shape = result.get_output("output_ids")["shape"]
            found = shared_memory.get_contents_as_numpy(regions[1], np.int32, shape).copy()
        finally:
            client.unregister_system_shared_memory()
            for region in regions:
                shared_memory.destroy_shared_memory_region(region)
    assert np.array_equal(found, whole["output_ids"])


@pytest.mark.parametrize("model", ["ensemble_unary", f"{MODEL}_unary"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": np.array([[5]], np.int64)},
        {"max_tokens": np.array([5], np.int32)},
        {"max_tokens": np.array([[5, 6]], np.int32)},
        {"nobody": 1},
    ],
)
def test_wrong_types_shapes_and_names_are_refused(
    triton: TritonServer, model: str, wrong: dict[str, Any], request_of: dict[str, Any]
) -> None:
    (name,) = wrong
    with http.InferenceServerClient(host(triton)) as client:
        with pytest.raises(InferenceServerException, match=name) as refused:
            client.infer(model, make_inputs(http, request_of | wrong))
        assert refused.value.status() == "400"

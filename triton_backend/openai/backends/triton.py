"""The model `tensorrt_llm` of a Triton server, over gRPC, with token ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE
from tritonclient.utils import np_to_triton_dtype

from inflight.errors import EngineError, InflightError, RequestError
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.triton_backend.wire.client_names import in_clients_words, names_of_ids_client
from inflight.triton_backend.wire.error_kinds import ASKS_FOR_CODES, read_with_code
from inflight.triton_backend.wire.token_wire import (
    Array,
    read_beams,
    read_delta,
    request_tensors,
    requested_outputs,
    stop_tensors,
)

# Input of `tensorrt_llm` -> sampling parameter, which is what the shim's clients know.
_PARAMETERS = {name: parameter for parameter, name in names_of_ids_client(()).items()}
# The client's own options are lost where others are given. A server that was started again is found within a second.
_CHANNEL = [
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
# An engine that is healthy answers between two of its steps.
_PROBE_S = 5.0


class TritonBackend:
    """A TokenBackend over a decoupled `tensorrt_llm` at `url` (host:port). One gRPC stream per request: cancelling the
    stream tells Triton that the client has gone."""

    def __init__(self, url: str, model: str = "tensorrt_llm") -> None:
        self._url = url
        self._model = model
        self._streams: set[Any] = set()
        self._closed = False

    @cached_property
    def _client(self) -> triton.InferenceServerClient:
        """Made when first used: it belongs to the event loop that is running then."""
        return open_client(self._url)

    async def generate(self, request: Request) -> AsyncGenerator[TokenDelta, None]:
        self._refuse_if_closed()
        inputs = request_tensors(request)
        outputs = requested_outputs(request)
        calls = self._calls(request.request_id, inputs, outputs)
        stream = self._client.stream_infer(calls)
        unfinished = request.num_sequences
        self._streams.add(stream)
        try:
            while unfinished:
                try:
                    response = await _next_response(stream)
                except asyncio.CancelledError:
                    self._refuse_if_closed()
                    raise
                deltas = [read_delta(request, response)] if request.beams is None else read_beams(request, response)
                for delta in deltas:
                    unfinished -= delta.finish_reason is not None
                    yield delta
        finally:
            # Harmless when the stream has ended; else it frees the request's cache blocks.
            stream.cancel()
            self._streams.discard(stream)

    async def cancel(self, request_id: str, index: int) -> None:
        stream = self._client.stream_infer(self._calls(request_id, stop_tensors(index), ["output_ids"]))
        try:
            async for _, error in stream:
                if error is not None:
                    raise _error_of(error.message())
        except grpc.RpcError as error:
            raise EngineError(f"Triton cannot be reached: {_details(error)}") from error

    async def problem(self) -> str | None:
        """Asks the model itself, with a stop request for nobody: Triton 2.51 calls a model ready whatever became of its
        engine."""
        try:
            await asyncio.wait_for(self.cancel("health", 0), _PROBE_S)
        except EngineError as error:
            return error.message
        except asyncio.TimeoutError:
            return f"The engine has not answered for {_PROBE_S:.0f} seconds."
        return None

    def stats(self) -> CoreStats | None:
        """Triton's own /metrics has them."""
        return None

    async def close(self) -> None:
        """Running requests end with an EngineError."""
        self._closed = True
        for stream in list(self._streams):
            stream.cancel()
        await self._client.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EngineError("The server is stopping.")

    async def _calls(
        self, request_id: str, tensors: Mapping[str, Array], outputs: Sequence[str]
    ) -> AsyncIterator[dict[str, Any]]:
        """The one request of a stream."""
        yield {
            "model_name": self._model,
            "request_id": request_id,
            "inputs": [infer_input(name, array) for name, array in tensors.items()],
            "outputs": [triton.InferRequestedOutput(name) for name in outputs],
            "parameters": {ASKS_FOR_CODES: True},
        }


async def _next_response(stream: AsyncIterator[Any]) -> dict[str, Array]:
    """The tensors of the next response. Raises the error of the model, or EngineError when there is none."""
    try:
        result, error = await anext(stream)
    except StopAsyncIteration:
        raise EngineError("Triton ended the stream before the last token.") from None
    except grpc.RpcError as failure:
        raise EngineError(f"Triton cannot be reached: {_details(failure)}") from failure
    if error is not None:
        raise _error_of(error.message())
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def open_client(url: str) -> triton.InferenceServerClient:
    """A client for the event loop that is running."""
    return triton.InferenceServerClient(url, channel_args=_CHANNEL)


def infer_input(name: str, array: Array) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _error_of(message: str) -> InflightError:
    """What a response says instead of tensors, in the words of the shim's clients."""
    error = read_with_code(message)
    return in_clients_words(error, _PARAMETERS) if isinstance(error, RequestError) else error


def _details(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error)

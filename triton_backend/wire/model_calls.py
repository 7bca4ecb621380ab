"""Calls of other models from inside a Triton process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inflight.triton_backend.wire.error_kinds import ASKS_FOR_CODES
from inflight.triton_backend.wire.request_tensors import Array
from inflight.triton_backend.wire.token_wire import stop_tensors
from inflight.triton_backend.wire.triton_api import output_arrays, pb_utils, read_error


def call_model(
    model: str, request_id: str, inputs: Mapping[str, Array], outputs: Sequence[str], *, decoupled: bool = False
) -> Iterator[dict[str, Array]]:
    """The responses with tensors, in order. Raises the error that the model answers with."""
    tensors = [pb_utils.Tensor(name, array) for name, array in inputs.items()]
    request = pb_utils.InferenceRequest(
        model_name=model,
        request_id=request_id,
        inputs=tensors,
        requested_output_names=list(outputs),
        parameters={ASKS_FOR_CODES: True},
    )
    for response in request.exec(decoupled=True) if decoupled else [request.exec()]:
        _raise_error(response)
        if arrays := output_arrays(response):
            yield arrays


def stop_generation(model: str, request_id: str, *, decoupled: bool) -> None:
    """End the generation of `tensorrt_llm` with this id early; its stream then ends by itself."""
    for _ in call_model(model, request_id, stop_tensors(None), ["output_ids"], decoupled=decoupled):
        pass


def _raise_error(response: Any) -> None:
    if response.has_error():
        error = response.error()
        raise read_error(error.code(), error.message())

"""The model `tensorrt_llm_unary`: the engine of the decoupled `tensorrt_llm` for clients that expect one answer.

It holds no engine: a repository has one, whatever its clients are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from inflight.errors import RequestError
from inflight.triton_backend.tensorrt_llm.refused_inputs import NO_STREAMING, ONE_SEQUENCE
from inflight.triton_backend.wire.joined_rows import JoinedRows
from inflight.triton_backend.wire.model_calls import call_model, stop_generation
from inflight.triton_backend.wire.request_tensors import RowTensors, batch_size
from inflight.triton_backend.wire.request_threads import Call, RequestThreads
from inflight.triton_backend.wire.server_process import end_with_server
from inflight.triton_backend.wire.triton_api import ModelSettings, check_numpy


class TritonPythonModel:
    """One instance serves every request at once."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy()
        end_with_server()
        settings = ModelSettings(args)
        self._core_model = settings.text("tensorrt_llm_model_name") or "tensorrt_llm"
        self._threads = RequestThreads(
            settings, self._serve, partial(stop_generation, self._core_model, decoupled=True)
        )

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._threads.start(request)

    def finalize(self) -> None:
        self._threads.close()

    def _serve(self, call: Call) -> None:
        first = RowTensors(call.tensors, 0)
        if first.flag("stop"):
            if not call.client_id:
                raise RequestError("A request id must be provided for request cancellation.")
            self._threads.stop_client(call.client_id)
            return
        rows = batch_size(call.tensors, "input_ids")
        # Inside `ensemble_unary`, which alone asks for it, the client speaks text.
        model = "ensemble" if first.flag("return_decode_context") else self._core_model
        hint = f"Send it to the model {model}, over a gRPC stream."
        if any(RowTensors(call.tensors, row).flag("streaming") for row in range(rows)):
            raise RequestError(NO_STREAMING, hint)
        if any(_has_several_answers(RowTensors(call.tensors, row)) for row in range(rows)):
            raise RequestError(ONE_SEQUENCE, hint)
        answers = call.channel if rows == 1 else JoinedRows(call.channel)
        # To put the rows in order takes their index, also where the client has not asked for it.
        outputs = call.outputs if rows == 1 else call.outputs | {"batch_index"}
        missing = rows
        for tensors in call_model(self._core_model, call.request_id, call.tensors, [*outputs], decoupled=True):
            missing -= 1
            answers.send(tensors, final=missing == 0)


def _has_several_answers(row: RowTensors) -> bool:
    """The sequences of a beam search come in one."""
    return (row.integer("num_return_sequences") or 1) > 1 >= (row.integer("beam_width") or 1)

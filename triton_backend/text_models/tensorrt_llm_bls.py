"""The model `tensorrt_llm_bls`: text in, text out, by calling `preprocessing` and `tensorrt_llm`.

The model to use for streaming: unlike `ensemble` it notices when a client disconnects, and cancels the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.tensorrt_llm.refused_inputs import NO_STREAMING, ONE_SEQUENCE, refuse_unsupported
from inflight.triton_backend.text_models.inner_models import InnerModels
from inflight.triton_backend.text_models.text_completion import TextCompletions, TextDefaults, read_text_row
from inflight.triton_backend.wire.client_names import names_of_ids_client, names_of_text_client
from inflight.triton_backend.wire.input_limits import check_sizes
from inflight.triton_backend.wire.joined_rows import JoinedRows
from inflight.triton_backend.wire.request_tensors import RowTensors, batch_size
from inflight.triton_backend.wire.request_threads import Call, RequestThreads
from inflight.triton_backend.wire.server_process import end_with_server
from inflight.triton_backend.wire.triton_api import ModelSettings, check_numpy


class TritonPythonModel:
    """One instance serves every request at once, decoupled or not."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy()
        end_with_server()
        settings = ModelSettings(args)
        self._decoupled = settings.decoupled
        self._tokenizer = load_tokenizer(Path(settings.required("tokenizer_dir")))
        self._defaults = TextDefaults(
            accumulate=settings.flag("accumulate_tokens", False),
            exclude_input_in_output=settings.flag("exclude_input_in_output", False),
            skip_special_tokens=settings.flag("skip_special_tokens", True),
        )
        core_model = settings.text("tensorrt_llm_model_name") or "tensorrt_llm"
        self._beside_decoupled = settings.flag("tensorrt_llm_decoupled", settings.decoupled)
        encoder = settings.text("preprocessing_model_name") or "preprocessing"
        self._models = InnerModels(core_model, self._beside_decoupled, encoder)
        self._threads = RequestThreads(settings, self._serve, self._models.stop)

    def execute(self, requests: list[Any]) -> None:
        """Start the requests; each answers from a thread of its own."""
        for request in requests:
            self._threads.start(request)

    def finalize(self) -> None:
        self._threads.close()

    def _serve(self, call: Call) -> None:
        call.channel.names = names_of_text_client(names_of_ids_client(call.tensors))
        batch_size(call.tensors, "text_input")
        refuse_unsupported(call.tensors)
        check_sizes(call.tensors)
        encoded = self._models.encode(call.tensors)
        lengths = encoded["REQUEST_INPUT_LEN"].reshape(-1)
        prompts = [tuple(int(i) for i in row[:n]) for row, n in zip(encoded["INPUT_ID"], lengths, strict=True)]
        rows = [
            read_text_row(RowTensors(call.tensors, row), prompt, self._defaults) for row, prompt in enumerate(prompts)
        ]
        if not self._decoupled:
            hint = (
                "Send it to the model tensorrt_llm_bls, over a gRPC stream or /generate_stream."
                if self._beside_decoupled
                else "Write the repository with decoupled_mode:true."
            )
            if any(row.streaming for row in rows):
                raise RequestError(NO_STREAMING, hint)
            if any(row.params.n > 1 and not row.has_beams for row in rows):
                raise RequestError(ONE_SEQUENCE, hint)
        answers = call.channel if self._decoupled or len(prompts) == 1 else JoinedRows(call.channel)
        completions = TextCompletions(self._tokenizer, rows, accumulate=self._defaults.accumulate)
        for response in self._models.generate(call.request_id, call.tensors, encoded, call.outputs):
            ready = completions.push(response)
            for position, answer in enumerate(ready, start=1):
                answers.send(answer, final=completions.finished and position == len(ready))
            if completions.finished and completions.ahead_of_engine:
                self._models.stop(call.request_id)

"""The model `tensorrt_llm_bls`: text in, text out, by calling `preprocessing` and `tensorrt_llm`.

The model to use for streaming: unlike `ensemble` it notices when a client disconnects, and cancels the request.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from inflight.errors import InflightError, RequestError
from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.tensorrt_llm.refused_inputs import refuse_unsupported
from inflight.triton_backend.text_models.inner_models import InnerModels
from inflight.triton_backend.text_models.text_completion import TextCompletions, read_text_request
from inflight.triton_backend.wire.request_tensors import Array
from inflight.triton_backend.wire.server_process import end_with_server
from inflight.triton_backend.wire.triton_api import (
    ModelSettings,
    TritonChannel,
    check_numpy,
    input_arrays,
    log_exception,
)

# Each request has a thread, which mostly waits; the engine's own queue bounds their number.
_MAX_THREADS = 1024


class TritonPythonModel:
    """One instance serves every request at once."""

    def initialize(self, args: Mapping[str, str]) -> None:
        check_numpy()
        end_with_server()
        settings = ModelSettings(args)
        self._tokenizer = load_tokenizer(Path(settings.required("tokenizer_dir")))
        self._accumulate = settings.flag("accumulate_tokens", False)
        self._exclude_input = settings.flag("exclude_input_in_output", False)
        self._models = InnerModels(settings.text("tensorrt_llm_model_name") or "tensorrt_llm", settings.decoupled)
        self._period_s = (settings.integer("cancellation_check_period_ms") or 100) / 1000
        self._pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="bls")
        self._open: dict[str, TritonChannel] = {}
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="bls-cancellation")
        self._watcher.start()

    def execute(self, requests: list[Any]) -> None:
        """Start the requests; each answers from a thread of its own.

        Without decoupling Triton serves calls to other models only until this returns, so then it waits for the end:
        such a repository needs a bls_instance_count as large as the number of its clients.
        """
        started = []
        for request in requests:
            outputs = frozenset(request.requested_output_names())
            started.append(self._pool.submit(self._serve, input_arrays(request), TritonChannel(request), outputs))
        if not self._models.decoupled:
            wait(started)

    def finalize(self) -> None:
        self._pool.shutdown()
        self._closing.set()
        self._watcher.join()

    def _serve(self, tensors: Mapping[str, Array], channel: TritonChannel, outputs: frozenset[str]) -> None:
        request_id = uuid.uuid4().hex
        self._open[request_id] = channel
        try:
            self._generate(request_id, tensors, channel, outputs)
        except InflightError as error:
            channel.send_error(str(error), isinstance(error, RequestError))
        except Exception as error:
            # A client must get an answer even when the request's thread fails.
            log_exception(f"tensorrt_llm_bls: request {request_id} failed")
            channel.send_error(f"{type(error).__name__}: {error}", invalid_request=False)
        finally:
            self._open.pop(request_id, None)
            channel.finish()

    def _generate(
        self, request_id: str, tensors: Mapping[str, Array], channel: TritonChannel, outputs: frozenset[str]
    ) -> None:
        refuse_unsupported(tensors)
        if "stream" in tensors and tensors["stream"].any() and not self._models.decoupled:
            raise RequestError(
                "Streaming is only supported in decoupled mode.", "Write the repository with decoupled_mode:true."
            )
        encoded = self._models.encode(tensors)
        lengths = encoded["REQUEST_INPUT_LEN"].reshape(-1)
        prompts = [tuple(int(i) for i in row[:n]) for row, n in zip(encoded["INPUT_ID"], lengths, strict=True)]
        request = read_text_request(tensors, prompts, self._accumulate, self._exclude_input)
        completions = TextCompletions(self._tokenizer, request)
        for response in self._models.generate(request_id, tensors, encoded, outputs):
            ready = completions.push(response)
            for position, answer in enumerate(ready, start=1):
                channel.send(answer, final=completions.finished and position == len(ready))
            if completions.finished and completions.ahead_of_engine:
                self._models.stop(request_id)

    def _watch(self) -> None:
        """Tell the engine about requests whose client has gone, also while they wait for their first token."""
        while not self._closing.wait(self._period_s):
            for request_id, channel in list(self._open.items()):
                if channel.is_cancelled() and self._open.pop(request_id, None) is not None:
                    self._models.stop(request_id)

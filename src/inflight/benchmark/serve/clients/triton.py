"""Triton's `tensorrt_llm`, streaming token ids over gRPC."""

from __future__ import annotations

import itertools
import time
from contextlib import aclosing

from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.benchmark.serve.requests import Outcome, Prompt
from inflight.errors import InflightError, RequestError
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.triton_backend.openai.backends.triton import TritonBackend


class TritonClient:
    """A gRPC stream per request on one channel. `base_url` is HOST:PORT; `model` the Triton model, `tensorrt_llm`."""

    def __init__(self, options: ServeBenchOptions) -> None:
        self._options = options
        self.model = options.model or "tensorrt_llm"
        self.max_seq_len: int | None = None
        self._backend = TritonBackend(options.base_url.removeprefix("http://").rstrip("/"), self.model)
        self._ids = itertools.count()

    async def send(self, prompt: Prompt) -> Outcome:
        outcome = Outcome(prompt.num_tokens, time.perf_counter())
        if prompt.token_ids is None:
            outcome.error = "tensorrt_llm takes token ids: name the model's --tokenizer."
            return outcome
        options = self._options
        params = SamplingParams(
            temperature=options.temperature, max_tokens=prompt.output_len, ignore_eos=options.ignore_eos
        )
        request = Request(f"bench-{next(self._ids)}", prompt.token_ids, params)
        try:
            async with aclosing(self._backend.generate(request)) as deltas:
                async for delta in deltas:
                    if delta.token_ids:
                        outcome.piece(time.perf_counter())
                        outcome.output_tokens += len(delta.token_ids)
        except InflightError as error:
            outcome.error, outcome.refused = str(error), isinstance(error, RequestError)
        return outcome

    async def close(self) -> None:
        await self._backend.close()

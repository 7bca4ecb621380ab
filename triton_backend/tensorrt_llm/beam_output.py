"""The sequences of a beam search as one response, in the shapes that TensorRT-LLM has for beams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inflight.errors import InflightError
from inflight.runtime.request.accumulator import add_logprobs
from inflight.runtime.request.deltas import TokenDelta
from inflight.triton_backend.tensorrt_llm.generation_request import GenerationRequest
from inflight.triton_backend.tensorrt_llm.sequence_output import Chunk
from inflight.triton_backend.wire.request_tensors import Array
from inflight.triton_backend.wire.response_tensors import PAD_TOKEN, response_tensors


class BeamOutput:
    """Collects the sequences, each of which has one delta."""

    def __init__(self, generation: GenerationRequest) -> None:
        self.generation = generation
        self._deltas: dict[int, TokenDelta] = {}

    def add(self, delta: TokenDelta) -> None:
        self._deltas[delta.index] = delta

    @property
    def finished(self) -> bool:
        return len(self._deltas) == self.generation.request.num_sequences

    @property
    def num_tokens(self) -> int:
        return sum(len(delta.token_ids) for delta in self._deltas.values())

    @property
    def failure(self) -> InflightError | None:
        return next((delta.failure for delta in self._deltas.values() if delta.failure is not None), None)

    def response(self, batch_index: int | None) -> dict[str, Array]:
        """Output name -> array with a batch dimension of 1, the best sequence first: output_ids [1, beams, longest],
        padded with -1, sequence_length and cum_log_probs [1, beams], output_log_probs [1, beams, longest],
        finish_reason [1, beams]. What is of the prompt, and the metrics, are those of the best. An end token is in the
        sum of log probabilities and, unless it is asked for, in nothing else.
        """
        deltas = [self._deltas[index] for index in sorted(self._deltas)]
        wanted, prompt = self.generation.wanted, self.generation.request.prompt_token_ids
        shown = [delta.token_ids[: len(delta.token_ids) - self._hidden(delta)] for delta in deltas]
        ids = [[*(prompt if wanted.include_prompt else ()), *tokens] for tokens in shown]
        best = Chunk(deltas[0], (), 0.0, [])
        tensors = response_tensors(best, self.generation, batch_index)
        for name in ("sequence_index", "logprob_ranks"):
            tensors.pop(name, None)
        tensors["output_ids"] = _padded(ids, PAD_TOKEN, np.int32)
        tensors["sequence_length"] = np.array([[len(each) for each in ids]], dtype=np.int32)
        if self.generation.request.params.logprobs is not None:
            values = [[result.logprob for result in delta.logprobs] for delta in deltas]
            tensors["output_log_probs"] = _padded(
                [each[: len(tokens)] for each, tokens in zip(values, shown, strict=True)], 0.0, np.float32
            )
            sums = [add_logprobs(None, delta.logprobs) or 0.0 for delta in deltas]
            tensors["cum_log_probs"] = np.array([sums], dtype=np.float32)
        if wanted.finish_reason:
            reasons = [(delta.finish_reason or "").encode() for delta in deltas]
            tensors["finish_reason"] = np.array([reasons], dtype=np.object_)
        if wanted.num_output_tokens:
            tensors["num_output_tokens"] = np.array([[sum(map(len, shown))]], dtype=np.int32)
        return tensors

    def _hidden(self, delta: TokenDelta) -> int:
        return int(delta.ended_by_token and not self.generation.wanted.end_token)


def _padded(rows: Sequence[Sequence[Any]], filler: Any, dtype: Any) -> Array:
    """[1, rows, longest]"""
    padded = np.full((1, len(rows), max(map(len, rows))), filler, dtype=dtype)
    for number, row in enumerate(rows):
        padded[0, number, : len(row)] = row
    return padded

"""The completions of one tensorrt_llm_bls request: from chunks of ids to the responses that carry text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.completion import Completion, CompletionDelta, RequestText
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.wire.request_tensors import Array, RowTensors
from inflight.triton_backend.wire.sampling_wire import read_text_parameter
from inflight.triton_backend.wire.token_wire import read_delta

# Outputs of tensorrt_llm that describe the tokens of one response and so are joined when responses are. Those that are
# joined are of all tokens so far in every response, as TensorRT-LLM's are.
_JOINED = ("output_log_probs",)
_ADDED = ("num_output_tokens",)
_NOT_PASSED_ON = ("output_ids", "sequence_length", "finish_reason", "stop_reason")


@dataclass(frozen=True, slots=True)
class TextRequest:
    """What a client of text asks for: row `prompt_ids` [batch] of ids, and how the text is to come."""

    prompt_ids: list[tuple[int, ...]]
    params: list[SamplingParams]
    streaming: bool
    accumulate: bool
    include_prompt: bool
    finish_reason: bool
    stop_reason: bool


def read_text_request(
    tensors: Mapping[str, Array], prompt_ids: list[tuple[int, ...]], accumulate: bool, exclude_input_default: bool
) -> TextRequest:
    """The text side of the inputs of tensorrt_llm_bls."""
    first = RowTensors(tensors, 0)
    exclude = first.scalar("exclude_input_in_output")
    exclude = exclude_input_default if exclude is None else bool(exclude)
    streaming = first.flag("stream")
    params = []
    for row in (RowTensors(tensors, index) for index in range(len(prompt_ids))):
        params.append(
            SamplingParams(
                n=read_text_parameter(row, "n") or 1,
                stop=row.strings("stop_words"),
                max_tokens=None,
                min_tokens=read_text_parameter(row, "min_tokens") or 0,
            )
        )
    return TextRequest(
        prompt_ids,
        params,
        streaming,
        accumulate,
        include_prompt=not streaming and not exclude,
        finish_reason=first.flag("return_finish_reason"),
        stop_reason=first.flag("return_stop_reason"),
    )


@dataclass(slots=True)
class _Sequence:
    """One completion so far, and the outputs of tensorrt_llm beside its text that no response has carried yet."""

    completion: Completion
    side: dict[str, Array] = field(default_factory=dict)


class TextCompletions:
    """Detokenizes the chunks of all sequences of a request. Text is cut before a stop string."""

    def __init__(self, tokenizer: Tokenizer, request: TextRequest) -> None:
        self._tokenizer = tokenizer
        self._request = request
        self._texts = [RequestText(tokenizer, params) for params in request.params]
        self._sequences: dict[tuple[int, int], _Sequence] = {}
        # Whether a stop string ended a completion that the engine goes on with.
        self.ahead_of_engine = False

    @property
    def finished(self) -> bool:
        """Whether every completion has ended, at a stop string or otherwise."""
        return all(text.finished for text in self._texts)

    def push(self, tensors: Mapping[str, Array]) -> list[dict[str, Array]]:
        """The responses that a response of tensorrt_llm leads to; none while a completion is still being collected."""
        batch = int(tensors["batch_index"].reshape(-1)[0]) if "batch_index" in tensors else 0
        inner = Request(str(batch), self._request.prompt_ids[batch], self._request.params[batch])
        return [
            response
            for delta in self._texts[batch].push(read_delta(inner, tensors, end_token_included=False))
            if (response := self._respond(batch, delta, tensors)) is not None
        ]

    def _respond(self, batch: int, delta: CompletionDelta, tensors: Mapping[str, Array]) -> dict[str, Array] | None:
        self.ahead_of_engine = self.ahead_of_engine or delta.cancel
        sequence = self._sequences.setdefault((batch, delta.index), _Sequence(Completion(delta.index)))
        sequence.completion.add(delta)
        _join(sequence.side, tensors)
        if not self._request.streaming:
            if delta.finish_reason is None:
                return None
            return self._response(self._whole_text(batch, sequence.completion), sequence.side, delta)
        side = sequence.side
        sequence.side = {name: array for name, array in side.items() if name in _JOINED}
        return self._response(sequence.completion.text if self._request.accumulate else delta.text, side, delta)

    def _whole_text(self, batch: int, completion: Completion) -> str:
        if not self._request.include_prompt:
            return completion.text
        whole = self._tokenizer.decode([*self._request.prompt_ids[batch], *completion.token_ids])
        if not isinstance(completion.stop_reason, str):
            return whole
        # The stop string is not part of the text, though its tokens are part of the completion.
        num_cut = len(self._tokenizer.decode(completion.token_ids)) - len(completion.text)
        return whole[: len(whole) - num_cut]

    def _response(self, text: str, side: dict[str, Array], delta: CompletionDelta) -> dict[str, Array]:
        """text_output has no batch dimension: clients read `text_output[0]`."""
        response = {name: array for name, array in side.items() if name not in _NOT_PASSED_ON}
        response["text_output"] = np.array([text.encode("utf-8")], dtype=np.object_)
        if self._request.finish_reason and delta.finish_reason is not None:
            response["finish_reason"] = np.array([[delta.finish_reason.encode()]], dtype=np.object_)
        if self._request.stop_reason and delta.stop_reason is not None:
            response["stop_reason"] = np.array([[str(delta.stop_reason).encode()]], dtype=np.object_)
        return response


def _join(side: dict[str, Array], tensors: Mapping[str, Array]) -> None:
    """Merge the side outputs of one more response into those of the responses before it."""
    for name, array in tensors.items():
        if name in side and name in _JOINED:
            side[name] = np.concatenate([side[name], array], axis=-1)
        elif name in side and name in _ADDED:
            side[name] = side[name] + array
        else:
            side[name] = array

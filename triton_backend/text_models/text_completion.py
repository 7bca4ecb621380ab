"""The completions of one tensorrt_llm_bls request: from chunks of ids to the responses that carry text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from inflight.errors import RequestError
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.completion import Completion, CompletionDelta, RequestText
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.triton_backend.tensorrt_llm.generation_request import NO_STREAM_OF_BEAMS
from inflight.triton_backend.wire.request_tensors import Array, RowTensors
from inflight.triton_backend.wire.sampling_wire import read_text_parameter
from inflight.triton_backend.wire.token_wire import read_delta

# Outputs of tensorrt_llm that describe the tokens of one response and so are joined when responses are. Those that are
# joined are of all tokens so far in every response, as TensorRT-LLM's are.
_JOINED = ("output_log_probs",)
_ADDED = ("num_output_tokens",)
_NOT_PASSED_ON = ("output_ids", "sequence_length", "finish_reason", "stop_reason")
_LOG_PROBS = ("output_log_probs", "cum_log_probs")


@dataclass(frozen=True, slots=True)
class TextRow:
    """What one row of a request of text asks for: the ids of its prompt, and how the text is to come."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    streaming: bool
    include_prompt: bool
    log_probs: bool
    finish_reason: bool
    stop_reason: bool
    has_beams: bool = False


@dataclass(frozen=True, slots=True)
class TextDefaults:
    """What config.pbtxt says for every request."""

    accumulate: bool = False
    exclude_input_in_output: bool = False
    skip_special_tokens: bool = True


def read_text_row(row: RowTensors, prompt_ids: tuple[int, ...], defaults: TextDefaults) -> TextRow:
    """The text side of one row of the inputs of tensorrt_llm_bls."""
    exclude = row.scalar("exclude_input_in_output")
    exclude = defaults.exclude_input_in_output if exclude is None else bool(exclude)
    streaming = row.flag("stream")
    params = SamplingParams(
        n=read_text_parameter(row, "n") or 1,
        stop=row.strings("stop_words"),
        max_tokens=None,
        min_tokens=read_text_parameter(row, "min_tokens") or 0,
        skip_special_tokens=defaults.skip_special_tokens,
    )
    return TextRow(
        prompt_ids,
        params,
        streaming,
        include_prompt=not streaming and not exclude,
        log_probs=row.flag("return_log_probs"),
        finish_reason=row.flag("return_finish_reason"),
        stop_reason=row.flag("return_stop_reason"),
        has_beams=_has_beams(row, streaming),
    )


def _has_beams(row: RowTensors, streaming: bool) -> bool:
    """Whether beam_width asks for a search. Raises RequestError for what one cannot do."""
    if (row.integer("beam_width") or 1) <= 1:
        return False
    if streaming:
        raise RequestError(NO_STREAM_OF_BEAMS.replace("streaming", "stream"), "Ask for the whole answer.")
    if row.strings("stop_words"):
        raise RequestError("stop_words has words; beam search ends at end tokens alone.", "Leave it out.")
    return True


@dataclass(slots=True)
class _Sequence:
    """One completion so far, and the outputs of tensorrt_llm beside its text that no response has carried yet."""

    completion: Completion
    side: dict[str, Array] = field(default_factory=dict)


class TextCompletions:
    """Detokenizes the chunks of all sequences of a request, whose rows are as if each had come alone. Text is cut
    before a stop string, and what is said of the tokens after the one that completed it."""

    def __init__(self, tokenizer: Tokenizer, rows: Sequence[TextRow], *, accumulate: bool) -> None:
        self._tokenizer = tokenizer
        self._rows = rows
        self._accumulate = accumulate
        self._texts = [RequestText(tokenizer, row.params) for row in rows]
        self._sequences: dict[tuple[int, int], _Sequence] = {}
        # Whether a stop string ended a completion that the engine goes on with.
        self.ahead_of_engine = False
        # Rows of which the sequences of a beam search have come.
        self._found: set[int] = set()

    @property
    def finished(self) -> bool:
        """Whether every completion has ended, at a stop string or otherwise."""
        return all(text.finished or number in self._found for number, text in enumerate(self._texts))

    def push(self, tensors: Mapping[str, Array]) -> list[dict[str, Array]]:
        """The responses that a response of tensorrt_llm leads to; none while a completion is still being collected."""
        batch = int(tensors["batch_index"].reshape(-1)[0]) if "batch_index" in tensors else 0
        if self._rows[batch].has_beams:
            self._found.add(batch)
            return [self._beams(self._rows[batch], tensors)]
        inner = Request(str(batch), self._rows[batch].prompt_ids, self._rows[batch].params)
        return [
            response
            for delta in self._texts[batch].push(read_delta(inner, tensors, end_token_included=False))
            if (response := self._respond(batch, delta, tensors)) is not None
        ]

    def _beams(self, row: TextRow, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The response of a search: a string for each of its sequences, the best first."""
        ids, lengths = tensors["output_ids"][0], tensors["sequence_length"][0]
        before = row.prompt_ids if row.include_prompt else ()
        texts = [
            self._tokenizer.decode([*before, *beam[:length].tolist()], row.params.skip_special_tokens)
            for beam, length in zip(ids, lengths, strict=True)
        ]
        hidden = {"output_ids", "sequence_length", "stop_reason"}
        hidden |= set() if row.log_probs else set(_LOG_PROBS)
        hidden |= set() if row.finish_reason else {"finish_reason"}
        shown = {name: array for name, array in tensors.items() if name not in hidden}
        return shown | {"text_output": np.array([text.encode("utf-8") for text in texts], dtype=np.object_)}

    def _respond(self, batch: int, delta: CompletionDelta, tensors: Mapping[str, Array]) -> dict[str, Array] | None:
        self.ahead_of_engine = self.ahead_of_engine or delta.cancel
        row = self._rows[batch]
        sequence = self._sequences.setdefault((batch, delta.index), _Sequence(Completion(delta.index)))
        sequence.completion.add(delta)
        _join(sequence.side, _cut(tensors, delta))
        if not row.streaming:
            if delta.finish_reason is None:
                return None
            return _response(row, self._whole_text(row, sequence.completion), sequence.side, delta)
        side = sequence.side
        sequence.side = {name: array for name, array in side.items() if name in _JOINED}
        return _response(row, sequence.completion.text if self._accumulate else delta.text, side, delta)

    def _whole_text(self, row: TextRow, completion: Completion) -> str:
        if not row.include_prompt:
            return completion.text
        skip = row.params.skip_special_tokens
        whole = self._tokenizer.decode([*row.prompt_ids, *completion.token_ids], skip)
        if not isinstance(completion.stop_reason, str):
            return whole
        # The stop string is not part of the text, though its tokens are part of the completion.
        num_cut = len(self._tokenizer.decode(completion.token_ids, skip)) - len(completion.text)
        return whole[: len(whole) - num_cut]


def _response(row: TextRow, text: str, side: Mapping[str, Array], delta: CompletionDelta) -> dict[str, Array]:
    """text_output has no batch dimension: clients read `text_output[0]`."""
    hidden = _NOT_PASSED_ON if row.log_probs else (*_NOT_PASSED_ON, *_LOG_PROBS)
    response = {name: array for name, array in side.items() if name not in hidden}
    response["text_output"] = np.array([text.encode("utf-8")], dtype=np.object_)
    if row.finish_reason and delta.finish_reason is not None:
        response["finish_reason"] = np.array([[delta.finish_reason.encode()]], dtype=np.object_)
    if row.stop_reason and delta.stop_reason is not None:
        response["stop_reason"] = np.array([[str(delta.stop_reason).encode()]], dtype=np.object_)
    return response


def _cut(tensors: Mapping[str, Array], delta: CompletionDelta) -> dict[str, Array]:
    """The outputs without the tokens that the engine made before it heard of a stop string: how many these are hangs on
    how busy the machine is."""
    num_kept = len(delta.token_ids)
    cut = dict(tensors)
    if not isinstance(delta.stop_reason, str) or num_kept == tensors["output_ids"].size:
        return cut
    if "num_output_tokens" in cut:
        cut["num_output_tokens"] = np.minimum(cut["num_output_tokens"], np.int32(num_kept))
    if "output_log_probs" in cut:
        cut["output_log_probs"] = cut["output_log_probs"][..., :num_kept]
    if "cum_log_probs" in cut and delta.cumulative_logprob is not None:
        cut["cum_log_probs"] = np.full_like(cut["cum_log_probs"], delta.cumulative_logprob)
    return cut


def _join(side: dict[str, Array], tensors: Mapping[str, Array]) -> None:
    """Merge the side outputs of one more response into those of the responses before it."""
    for name, array in tensors.items():
        if name in side and name in _JOINED:
            side[name] = np.concatenate([side[name], array], axis=-1)
        elif name in side and name in _ADDED:
            side[name] = side[name] + array
        else:
            side[name] = array

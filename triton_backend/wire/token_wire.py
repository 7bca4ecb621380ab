"""Requests and deltas of the runtime as the tensors of the model `tensorrt_llm`, seen from its clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.errors import RequestError
from inflight.runtime.request.deltas import FinishReason, TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import TokenResult
from inflight.sampling_parameters import to_float32
from inflight.triton_backend.wire.sampling_wire import write_parameters, write_reasoning, write_structure
from inflight.triton_backend.wire.word_lists import write_words

Array = npt.NDArray[Any]

# Of beams, whose lengths differ.
BEAM_OUTPUTS = ("sequence_length",)
OUTPUTS = (
    "output_ids",
    "sequence_index",
    "batch_index",
    "finish_reason",
    "stop_reason",
    "num_cached_tokens",
)
LOGPROB_OUTPUTS = ("output_log_probs", "logprob_ranks")
TOP_OUTPUTS = ("top_token_ids", "top_log_probs")
PROMPT_OUTPUTS = ("prompt_log_probs", "prompt_logprob_ranks", "prompt_top_token_ids", "prompt_top_log_probs")


def request_tensors(request: Request) -> dict[str, Array]:
    """The inputs of a request that asks for exactly what `request` asks of the runtime. It streams, but for beams.

    Raises RequestError when max_tokens is not set: the wire has no value for "as many as fit".
    """
    params = request.params
    if params.max_tokens is None:
        raise RequestError("max_tokens is not set.", "Say how many tokens to generate at most.")
    tensors: dict[str, Array] = {
        "input_ids": np.array([request.prompt_token_ids], dtype=np.int32),
        "input_lengths": _integer(len(request.prompt_token_ids)),
        "request_output_len": _integer(params.max_tokens),
        "priority": _integer(request.priority),
        "streaming": _flag(True),
        "return_finish_reason": _flag(True),
        "return_stop_reason": _flag(True),
        "return_end_token": _flag(True),
        "return_num_cached_tokens": _flag(True),
    }
    if request.beams is not None:
        tensors |= {
            "beam_width": _integer(request.beams.width),
            "len_penalty": np.array([[request.beams.length_penalty]], dtype=np.float32),
            "streaming": _flag(False),
            "exclude_input_in_output": _flag(True),
        }
    tensors |= write_parameters(params) | {"num_return_sequences": _integer(request.num_sequences)}
    tensors |= write_structure(params.structured_outputs) | write_reasoning(params.reasoning)
    return tensors | _lists(params) | _logprobs(params, request.num_sequences)


def stop_tensors(index: int | None) -> dict[str, Array]:
    """The inputs that stop the request with the same id; `index`: only that sequence of it."""
    tensors = {
        "input_ids": _integer(0),
        "input_lengths": _integer(0),
        "request_output_len": _integer(0),
        "stop": _flag(True),
    }
    return tensors if index is None else tensors | {"stop_sequence_index": _integer(index)}


def requested_outputs(request: Request) -> list[str]:
    """The outputs that carry what `request_tensors` asks for."""
    params = request.params
    outputs = [*OUTPUTS, *(() if request.beams is None else BEAM_OUTPUTS)]
    if params.logprobs is not None or request.num_sequences > params.n:
        outputs += LOGPROB_OUTPUTS
    if params.logprobs:
        outputs += TOP_OUTPUTS
    if params.prompt_logprobs is not None:
        outputs += PROMPT_OUTPUTS
    return outputs


def read_delta(request: Request, tensors: Mapping[str, Array], *, end_token_included: bool = True) -> TokenDelta:
    """The delta that a response carries.

    `end_token_included`: the request set return_end_token and has no stop words, as those of `request_tensors`; the
    token that ended the sequence is then the last one of a delta whose finish_reason is "stop".
    """
    ids = [int(token) for token in tensors["output_ids"].reshape(-1)]
    reason = _text(tensors.get("finish_reason"))
    stop_reason = _text(tensors.get("stop_reason"))
    return TokenDelta(
        request_id=request.request_id,
        index=int(tensors["sequence_index"].reshape(-1)[0]) if "sequence_index" in tensors else 0,
        token_ids=tuple(ids),
        logprobs=_results(ids, "output_log_probs", "logprob_ranks", "top", tensors),
        prompt_logprobs=_prompt_results(request.prompt_token_ids, tensors),
        finish_reason=_finish_reason(reason),
        stop_reason=None if stop_reason is None else int(stop_reason),
        ended_by_token=end_token_included and reason == "stop" and not _stop_ids(request).isdisjoint(ids[-1:]),
        cached_tokens=_count(tensors.get("num_cached_tokens")),
    )


def read_beams(request: Request, tensors: Mapping[str, Array]) -> Iterator[TokenDelta]:
    """The deltas of a response to a request for beams: one of each sequence, the best first."""
    lengths, reasons = tensors["sequence_length"].reshape(-1), tensors["finish_reason"].reshape(-1)
    for beam, length in enumerate(lengths.tolist()):
        ids = tensors["output_ids"][0, beam, :length].tolist()
        one = {name: array for name, array in tensors.items() if name == "output_log_probs"}
        one = {name: array[0, beam, :length] for name, array in one.items()}
        reason = _finish_reason(bytes(reasons[beam]).decode())
        yield TokenDelta(
            request.request_id,
            beam,
            tuple(ids),
            _results(ids, "output_log_probs", "logprob_ranks", "top", one),
            finish_reason=reason,
            ended_by_token=reason == "stop",
            cached_tokens=_count(tensors.get("num_cached_tokens")),
        )


def _stop_ids(request: Request) -> set[int]:
    """What ends a text and is no part of it. A structured output may end without any of them."""
    return {*(() if request.params.ignore_eos else request.end_token_ids), *request.params.stop_token_ids}


def _lists(params: SamplingParams) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    if params.bad_word_ids:
        tensors["bad_words_list"] = write_words([params.bad_word_ids])
    if params.logit_bias:
        tensors["logit_bias_ids"] = np.array([list(params.logit_bias)], dtype=np.int32)
        values = [to_float32(value) for value in params.logit_bias.values()]
        tensors["logit_bias_values"] = np.array([values], dtype=np.float32)
    return tensors


def _logprobs(params: SamplingParams, num_sequences: int) -> dict[str, Array]:
    """Choosing the best of several sequences needs their log probabilities, asked for or not. return_log_probs would
    bring those of all tokens so far with every response."""
    if params.logprobs is None and num_sequences <= params.n:
        return {}
    return {"num_logprobs": _integer(params.logprobs or 0)}


def _prompt_results(prompt: Sequence[int], tensors: Mapping[str, Array]) -> tuple[TokenResult | None, ...] | None:
    if "prompt_log_probs" not in tensors:
        return None
    unscored = len(prompt) - tensors["prompt_log_probs"].size
    scored = _results(prompt[unscored:], "prompt_log_probs", "prompt_logprob_ranks", "prompt_top", tensors)
    return (None,) * unscored + scored


def _results(
    ids: Sequence[int], logprobs_name: str, ranks_name: str, top_name: str, tensors: Mapping[str, Array]
) -> tuple[TokenResult, ...]:
    if logprobs_name not in tensors:
        return ()
    # With return_log_probs they are those of all tokens so far, of which these are the last.
    logprobs = tensors[logprobs_name].reshape(-1)
    logprobs = logprobs[logprobs.size - len(ids) :]
    ranks = tensors[ranks_name].reshape(-1).tolist() if ranks_name in tensors else [0] * len(ids)
    return tuple(
        TokenResult(token_id, float(logprobs[row]), ranks[row], _top(tensors, top_name, row))
        for row, token_id in enumerate(ids)
    )


def _top(tensors: Mapping[str, Array], name: str, row: int) -> tuple[tuple[int, float], ...]:
    if f"{name}_token_ids" not in tensors:
        return ()
    ids, values = tensors[f"{name}_token_ids"][0, row], tensors[f"{name}_log_probs"][0, row]
    return tuple((int(token), float(value)) for token, value in zip(ids, values, strict=True) if token >= 0)


def _finish_reason(text: str | None) -> FinishReason | None:
    reasons: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "cancelled": "cancelled"}
    return None if text is None else reasons[text]


def _text(tensor: Array | None) -> str | None:
    return None if tensor is None else bytes(tensor.reshape(-1)[0]).decode()


def _count(tensor: Array | None) -> int | None:
    return None if tensor is None else int(tensor.reshape(-1)[0])


def _integer(value: int) -> Array:
    return np.array([[value]], dtype=np.int32)


def _flag(value: bool) -> Array:
    return np.array([[value]], dtype=np.bool_)

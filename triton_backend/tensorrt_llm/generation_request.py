"""The tensors of one row of a tensorrt_llm request, as a Request of the runtime and what is to be returned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.sampling_parameters import MOST_LENGTH_PENALTY
from inflight.triton_backend.wire.request_tensors import RowTensors
from inflight.triton_backend.wire.sampling_wire import AS_MANY_AS_FIT, read_parameters, read_reasoning, read_structure
from inflight.triton_backend.wire.word_lists import Words, read_words

NO_STREAM_OF_BEAMS = "streaming is set; beam search knows at its end which sequences are the best."


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """The engine's defaults for values that a request does not give. `vocab_size` bounds embedding_bias, `max_seq_len`
    the prompt (0: not here), `max_beam_width` beam_width (None: as wide as a search can be)."""

    end_token_ids: tuple[int, ...]
    vocab_size: int
    exclude_input_in_output: bool = False
    max_seq_len: int = 0
    max_beam_width: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the responses carry beside output_ids and sequence_length."""

    streaming: bool
    include_prompt: bool
    log_probs: bool
    perf_metrics: bool
    num_input_tokens: bool
    num_output_tokens: bool
    num_cached_tokens: bool
    finish_reason: bool
    stop_reason: bool
    end_token: bool
    decode_context: bool


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """`stop_words`: token sequences that end the output and stay part of it, as in TensorRT-LLM; `stop_texts`: what
    each of them is to the client, for stop_reason, or none."""

    request: Request
    stop_words: Words
    wanted: Wanted
    stop_texts: tuple[str, ...] = ()


def read_request(row: RowTensors, request_id: str, defaults: ModelDefaults) -> GenerationRequest:
    """Raises RequestError for a value that is missing, out of range or contradicts another."""
    wanted, beams = _wanted(row, defaults), _beams(row, defaults.max_beam_width)
    end_token_ids, ignore_eos = _end_tokens(row, defaults)
    request = Request(
        request_id=request_id,
        prompt_token_ids=_prompt(row, defaults.max_seq_len),
        params=_sampling_params(row, ignore_eos, wanted, defaults.vocab_size, beams),
        end_token_ids=end_token_ids,
        priority=row.integer("priority") or 0,
        metrics_in_every_delta=wanted.streaming and wanted.perf_metrics,
    )
    stop_words = read_words("stop_words_list", row.array("stop_words_list"))
    if beams and wanted.streaming:
        raise RequestError(NO_STREAM_OF_BEAMS, "Ask for the whole answer.")
    if beams and stop_words:
        raise RequestError("stop_words_list has words; beam search ends at end tokens alone.", "Leave it out.")
    return GenerationRequest(request, stop_words, wanted, _stop_texts(row, len(stop_words)))


def _beams(row: RowTensors, most: int | None) -> dict[str, Any]:
    """The parameters that beam_width asks for; 1 is no search. Without len_penalty a score is the sum itself, as in
    TensorRT-LLM."""
    width, penalty = row.integer("beam_width"), row.number("len_penalty")
    if width is None or width == 1:
        return {}
    if width < 1:
        raise RequestError(f"beam_width is {width}; it must be at least 1.")
    if most is not None and width > most:
        raise RequestError(f"beam_width is {width}; max_beam_width of this model repository is {most}.")
    if penalty is not None and not abs(penalty) <= MOST_LENGTH_PENALTY:
        raise RequestError(
            f"len_penalty is {penalty}; it must be between -{MOST_LENGTH_PENALTY} and {MOST_LENGTH_PENALTY}."
        )
    count = row.integer("num_return_sequences") or width
    if count > width:
        raise RequestError(f"num_return_sequences is {count}; a search of {width} beams finds no more.")
    return {"use_beam_search": True, "n": count, "best_of": width, "length_penalty": penalty or 0.0}


def _stop_texts(row: RowTensors, num_words: int) -> tuple[str, ...]:
    texts = row.strings("stop_words_texts")
    if len(texts) not in (0, num_words):
        raise RequestError(f"There are {len(texts)} stop_words_texts and {num_words} words in stop_words_list.")
    return texts


def _prompt(row: RowTensors, max_seq_len: int) -> tuple[int, ...]:
    """input_ids is padded on the right to the longest prompt of the batch; without input_lengths nothing is padding.

    Nothing is copied of a prompt that is too long.
    """
    ids, length = row.array("input_ids"), row.integer("input_lengths")
    if ids is None or not ids.size:
        raise RequestError("input_ids is missing or empty.", "Send the token ids of the prompt.")
    if length is None:
        length = ids.size
    if not 0 < length <= ids.size:
        raise RequestError(f"input_lengths is {length}; input_ids has {ids.size} tokens.")
    if max_seq_len and length > max_seq_len:
        raise RequestError(f"The prompt has {length} tokens; this engine takes {max_seq_len} in all.", "Shorten it.")
    return tuple(ids.reshape(-1)[:length].tolist())


def _end_tokens(row: RowTensors, defaults: ModelDefaults) -> tuple[tuple[int, ...], bool]:
    """The end tokens, and whether they are ignored.

    Clients name one end id; a model may have several. Naming one of the model's own means all of them.
    """
    end_id = row.integer("end_id")
    if row.flag("ignore_eos") or end_id == -1:
        return defaults.end_token_ids, True
    if end_id is None or end_id in defaults.end_token_ids:
        return defaults.end_token_ids, False
    return (end_id,), False


def _sampling_params(
    row: RowTensors, ignore_eos: bool, wanted: Wanted, vocab_size: int, beams: Mapping[str, Any]
) -> SamplingParams:
    max_tokens = row.integer("request_output_len")
    given = read_parameters(row)
    return SamplingParams(
        **{
            **given,
            **_sampling_kind(given),
            "n": given.get("n") or 1,
            **beams,
            "max_tokens": None if max_tokens == AS_MANY_AS_FIT else max_tokens,
            "ignore_eos": ignore_eos,
            "bad_word_ids": read_words("bad_words_list", row.array("bad_words_list")),
            "logit_bias": _logit_bias(row, vocab_size),
            "structured_outputs": read_structure(row),
            "reasoning": read_reasoning(row),
            "logprobs": given.get("logprobs", 0 if wanted.log_probs else None),
        }
    )


def _sampling_kind(given: Mapping[str, Any]) -> dict[str, Any]:
    """As in TensorRT-LLM, a top_k of 0 (or -1) and a top_p of 0 or less are unset; a request with neither is greedy.

    What no request may have, NaN and the infinities among it, stays as it is, for the check of all parameters.
    """
    top_k, top_p = given.get("top_k", 0), given.get("top_p", 0.0)
    if top_p > -math.inf and top_p <= 0:
        top_p = 1.0
        if top_k in (0, -1):
            temperature = given.get("temperature", 0.0)
            return {"temperature": 0.0 if 0 <= temperature < math.inf else temperature, "top_k": 0, "top_p": top_p}
    return {"top_k": top_k, "top_p": top_p}


def _logit_bias(row: RowTensors, vocab_size: int) -> dict[int, float]:
    """embedding_bias is a value per vocabulary entry; logit_bias_ids and logit_bias_values name some entries."""
    dense = row.numbers("embedding_bias")
    if dense and len(dense) < vocab_size:
        raise RequestError(f"embedding_bias has {len(dense)} values; the vocabulary has {vocab_size}.")
    bias = {token: value for token, value in enumerate(dense[:vocab_size]) if value}
    ids, values = row.integers("logit_bias_ids"), row.numbers("logit_bias_values")
    if len(ids) != len(values):
        raise RequestError(f"There are {len(ids)} logit_bias_ids and {len(values)} logit_bias_values.")
    # -1 fills a row up to the longest of the batch.
    return bias | {token: value for token, value in zip(ids, values, strict=True) if token != -1}


def _wanted(row: RowTensors, defaults: ModelDefaults) -> Wanted:
    streaming = row.flag("streaming")
    exclude = row.scalar("exclude_input_in_output")
    exclude = defaults.exclude_input_in_output if exclude is None else bool(exclude)
    return Wanted(
        streaming=streaming,
        include_prompt=not streaming and not exclude,
        log_probs=row.flag("return_log_probs"),
        perf_metrics=row.flag("return_perf_metrics"),
        num_input_tokens=row.flag("return_num_input_tokens"),
        num_output_tokens=row.flag("return_num_output_tokens"),
        num_cached_tokens=row.flag("return_num_cached_tokens"),
        finish_reason=row.flag("return_finish_reason"),
        stop_reason=row.flag("return_stop_reason"),
        end_token=row.flag("return_end_token"),
        decode_context=row.flag("return_decode_context"),
    )

"""What a request must be for the engine to serve it, and how many tokens there is room for."""

from __future__ import annotations

import math
from dataclasses import replace

from inflight.errors import RequestError
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.sampling_parameters import GREATEST, to_float32


def check_request(request: Request, *, vocab_size: int, max_seq_len: int, cache_tokens: int) -> int:
    """The most tokens that may be generated. Raises RequestError for a request that could never be served.

    `cache_tokens` is how many tokens the whole KV cache holds.
    """
    prompt = request.prompt_token_ids
    if not prompt:
        raise RequestError("The prompt is empty.", "Send at least one token.")
    for name, ids in (("The prompt", prompt), ("logit_bias", request.params.logit_bias)):
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            wrong = next(id for id in ids if not 0 <= id < vocab_size)
            raise RequestError(
                f"{name} has the token id {wrong}; the vocabulary has {vocab_size}, 0 to {vocab_size - 1}.",
                "Use the tokenizer that the engine was built with.",
                param=None if ids is prompt else name,
            )
    for token_id, value in request.params.logit_bias.items():
        if not to_float32(value) <= GREATEST:
            raise RequestError(
                f"logit_bias is {to_float32(value):g} for the token {token_id}; it must be a number up to 1e+38.",
                param="logit_bias",
            )
    _check_choice(request, vocab_size)
    return _output_room(request, max_seq_len, cache_tokens)


def _check_choice(request: Request, vocab_size: int) -> None:
    """Raises RequestError when no token may be the first."""
    params = request.params
    ending = set(params.stop_token_ids) | set(() if params.ignore_eos else request.end_token_ids)
    ways = {
        "logit_bias": params.logit_bias,
        "bad_word_ids": {word[0] for word in params.bad_word_ids if len(word) == 1},
        "min_tokens": ending if params.min_tokens else (),
    }
    if sum(map(len, ways.values())) < vocab_size:  # nearly always, and so without a look at each token
        return
    forbidding = {token_id for token_id, value in params.logit_bias.items() if to_float32(value) == -math.inf}
    forbidden = forbidding.union(ways["bad_word_ids"], ways["min_tokens"])
    if len(forbidden.intersection(range(vocab_size))) == vocab_size:
        names = [name for name, ids in ways.items() if ids]
        raise RequestError(
            f"{' and '.join(names)} forbid every token of the vocabulary.",
            "Leave at least one that may be chosen.",
            param=names[0],
        )


def output_room(prompt_length: int, max_tokens: int | None, total: int) -> int | None:
    """How many tokens may be generated where prompt and output have `total`: `max_tokens`, or for None all that fit.

    None when that many, or not even one, do not fit.
    """
    room = total - prompt_length
    return None if room < (max_tokens or 1) else max_tokens or room


def total_room(params: SamplingParams, total: int) -> int:
    """How many tokens prompt and output may have together where the KV cache of a sequence holds `total`.

    One more for a request that scores its prompt and generates a single token: the last token of an output is never
    computed and needs no place, so that a prompt which fills the context can be scored.
    """
    return total + (params.max_tokens == 1 and params.prompt_logprobs is not None)


def fit_max_tokens(params: SamplingParams, prompt_length: int, total: int) -> SamplingParams:
    """`params` with a max_tokens that is more than there is room for lowered to that; to 1 where there is none, so that
    the request is refused with its reason."""
    if params.max_tokens is None or output_room(prompt_length, params.max_tokens, total) is not None:
        return params
    room = max(total - prompt_length, 1)
    return replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))


def _output_room(request: Request, max_seq_len: int, cache_tokens: int) -> int:
    length, max_tokens = len(request.prompt_token_ids), request.params.max_tokens
    total = min(max_seq_len, cache_tokens)
    room = output_room(length, max_tokens, total_room(request.params, total))
    if room is not None:
        return room
    asked = "" if max_tokens is None else f" and max_tokens is {max_tokens}"
    holder = "this engine takes" if max_seq_len <= cache_tokens else "the KV cache holds"
    raise RequestError(
        f"The prompt has {length} tokens{asked}; {holder} {total} in all.",
        "Shorten the prompt or lower max_tokens."
        if max_seq_len <= cache_tokens
        else "Shorten the prompt, lower max_tokens or give the KV cache more memory.",
    )


def id_in_use(request: Request) -> RequestError:
    """What a request is refused with while another one has its id."""
    return RequestError(f"A request with the id {request.request_id} is running.", "Give every request its own id.")

"""What a request must be for the engine to serve it."""

from __future__ import annotations

from inflight.errors import RequestError
from inflight.runtime.request.request import Request
from inflight.sampling_parameters import GREATEST, to_float32


def check_request(request: Request, *, vocab_size: int, max_seq_len: int, cache_tokens: int) -> int:
    """The most tokens that may be generated. Raises RequestError for a request that could never be served.

    `cache_tokens` is how many tokens the whole KV cache holds.
    """
    prompt = request.prompt_token_ids
    if not prompt:
        raise RequestError(f"Request {request.request_id}: the prompt is empty.", "Send at least one token.")
    for name, ids in (("The prompt", prompt), ("logit_bias", request.params.logit_bias)):
        if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
            wrong = next(id for id in ids if not 0 <= id < vocab_size)
            raise RequestError(
                f"Request {request.request_id}: {name} has the token id {wrong}; the ids are 0 to {vocab_size - 1}.",
                "Use the tokenizer that the engine was built with.",
            )
    if not all(to_float32(value) <= GREATEST for value in request.params.logit_bias.values()):
        raise RequestError(f"Request {request.request_id}: logit_bias has a value that is not a number or is infinite.")
    return _output_room(request, max_seq_len, cache_tokens)


def _output_room(request: Request, max_seq_len: int, cache_tokens: int) -> int:
    length, max_tokens = len(request.prompt_token_ids), request.params.max_tokens
    total = min(max_seq_len, cache_tokens)
    if length + (max_tokens or 1) <= total:
        return max_tokens or total - length
    asked = "" if max_tokens is None else f" and max_tokens is {max_tokens}"
    holder = "this engine takes" if max_seq_len <= cache_tokens else "the KV cache holds"
    raise RequestError(
        f"Request {request.request_id}: the prompt has {length} tokens{asked}; {holder} {total} in all.",
        "Shorten the prompt or lower max_tokens."
        if max_seq_len <= cache_tokens
        else "Shorten the prompt, lower max_tokens or give the KV cache more memory.",
    )

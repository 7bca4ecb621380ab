"""Log probabilities in the two shapes of the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import TokenChoice, TokenLogprob, spell_logprob
from inflight.runtime.text.tokenizer import Tokenizer

# JSON has no infinity; the API's own stand-in for a probability of zero.
_LOWEST = -9999.0


def chat_logprobs(entries: Iterable[TokenLogprob], num_top: int) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    content = [
        {**_choice(entry), "top_logprobs": [_choice(choice) for choice in entry.top[:num_top]]} for entry in entries
    ]
    return {"content": content, "refusal": None}


def spell(entries: Iterable[TokenLogprob]) -> list[str]:
    """The tokens as completions spell them."""
    return [spell_token(entry.token_id, entry.bytes) for entry in entries]


def spell_token(token_id: int, token: bytes) -> str:
    """The text of a token, as far as it tells it from others: `top_logprobs` has texts as keys.

    What is no UTF-8, a part of a character, reads `bytes:\\xe2\\x80`, as OpenAI has it; a token that adds nothing to
    the text, such as an id that the tokenizer does not know, reads `token_id:7`.
    """
    try:
        return token.decode() if token else f"token_id:{token_id}"
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in token)


def completion_logprobs(
    entries: Sequence[TokenLogprob | None], spelled: Sequence[str], offsets: Sequence[int]
) -> dict[str, Any]:
    """`logprobs` of a completion choice: parallel lists over its tokens.

    `spelled` are the tokens' texts, `offsets` the characters before each. An entry is None for the first token of an
    echoed prompt, which has no probability.
    """
    return {
        "tokens": list(spelled),
        "token_logprobs": [None if entry is None else max(entry.logprob, _LOWEST) for entry in entries],
        "top_logprobs": [None if entry is None else _top(entry) for entry in entries],
        "text_offset": list(offsets),
    }


def prompt_logprobs(
    tokenizer: Tokenizer, results: Iterable[TokenResult | None], num_top: int
) -> list[dict[str, Any] | None]:
    """`prompt_logprobs` in vLLM's shape: per prompt token the likeliest `num_top` ids and the token's own, None for the
    first, which has no probability."""
    return [None if each is None else _ranked(spell_logprob(tokenizer, each), num_top) for each in results]


def _ranked(entry: TokenLogprob, num_top: int) -> dict[str, Any]:
    ranks = [*((rank, choice) for rank, choice in enumerate(entry.top[:num_top], 1)), (entry.rank, entry)]
    return {
        str(choice.token_id): {"logprob": max(choice.logprob, _LOWEST), "rank": rank, "decoded_token": choice.text}
        for rank, choice in ranks
    }


def _choice(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": max(choice.logprob, _LOWEST), "bytes": list(choice.bytes)}


def _top(entry: TokenLogprob) -> dict[str, float]:
    """The most likely tokens, and the chosen one even where it is not among them. Of tokens with the same text, as a
    byte and a letter of a SentencePiece vocabulary, the likelier one stays."""
    top: dict[str, float] = {}
    for choice in (*entry.top, entry):
        top.setdefault(spell_token(choice.token_id, choice.bytes), max(choice.logprob, _LOWEST))
    return top

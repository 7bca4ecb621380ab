"""Words as the token sequences that can spell them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.tokenizer import Tokenizer


def word_ids(tokenizer: Tokenizer, word: str) -> tuple[tuple[int, ...], ...]:
    """The encodings of `word` at the start of a text, after a space, and inside a word, without repeats.

    Tokenizers join a leading space to the word, so these are different tokens. Encodings that lose the word (unknown
    tokens) are left out. A model may still spell a word in other, unusual pieces.
    """
    bare = word.strip() or word
    candidates = (
        tokenizer.encode(word, False),
        tokenizer.encode(f" {bare}", False),
        ids_inside_a_text(tokenizer, bare),
    )
    spelled = [tuple(ids) for ids in candidates if ids and bare in tokenizer.decode(ids, skip_special_tokens=False)]
    return tuple(dict.fromkeys(spelled))


def all_word_ids(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """`word_ids` of every word."""
    return tuple(dict.fromkeys(ids for word in words for ids in word_ids(tokenizer, word)))


def with_bad_word_ids(tokenizer: Tokenizer, params: SamplingParams) -> SamplingParams:
    """`params` with the token sequences of `bad_words` added to `bad_word_ids`, which is what the engine reads."""
    if not params.bad_words:
        return params
    return replace(params, bad_words=(), bad_word_ids=params.bad_word_ids + all_word_ids(tokenizer, params.bad_words))


def ids_inside_a_text(tokenizer: Tokenizer, word: str) -> list[int]:
    """The encoding without the space that some tokenizers put before the first word; empty where they join it with what
    comes before."""
    newline = tokenizer.encode("\n", False)
    joined = tokenizer.encode(f"\n{word}", False)
    return joined[len(newline) :] if joined[: len(newline)] == newline else []


def takes_first_blank(tokenizer: Tokenizer) -> bool:
    """Whether a text loses the blank with which its first token begins, as those of Llama 2's tokenizer do."""
    for ids in (tokenizer.encode("a", False), ids_inside_a_text(tokenizer, " a")):
        if b"".join(map(tokenizer.token_bytes, ids)) == b" a":
            return tokenizer.decode(ids, skip_special_tokens=False) == "a"
    return False

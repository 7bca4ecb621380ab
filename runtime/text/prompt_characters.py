"""The longest text that can be a prompt: known without tokenizing it."""

from __future__ import annotations

from inflight.errors import RequestError
from inflight.runtime.text.tokenizer import Tokenizer

# Unicode's composition makes one character of up to four, before a text is cut into tokens.
_COMPOSED = 4


def most_characters(tokenizer: Tokenizer, max_seq_len: int) -> int:
    """The characters of `max_seq_len` of the longest tokens. A longer text has more tokens than the engine takes.

    A vocabulary entry is spelled with at least as many characters as its text has.
    """
    longest = max(map(len, tokenizer.backend.get_vocab(with_added_tokens=True)), default=1)
    return max_seq_len * longest * (1 if tokenizer.backend.normalizer is None else _COMPOSED)


def check_characters(what: str, num_characters: int, most: int) -> None:
    """Raises RequestError for a prompt, called `what`, of more than `most` characters."""
    if num_characters > most:
        raise RequestError(
            f"{what} has {num_characters} characters; what this engine takes in all has {most} at most.",
            "Shorten it.",
        )

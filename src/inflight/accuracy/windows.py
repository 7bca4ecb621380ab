"""Texts in windows of tokens: the first half of each is context, the second half is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inflight.errors import InflightError

# Less has no half to predict and a half to predict it from.
_LEAST_TOKENS = 4


def text_tokens(texts: Sequence[str], encode: Callable[[str, bool], Sequence[int]]) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before a text, and those of all texts one after the other.

    encode: (text, whether to add special tokens) to token ids.
    """
    tokens: list[int] = []
    for text in texts:
        tokens += encode(text, False)
    probe = "a"
    plain, special = list(encode(probe, False)), list(encode(probe, True))
    before = next((n for n in range(len(special)) if special[n : n + len(plain)] == plain), 0)
    return special[:before], tokens


def cut_windows(before: Sequence[int], tokens: Sequence[int], window: int) -> list[tuple[int, ...]]:
    """Windows of `window` tokens, each beginning with `before`; what is left at the end is not used. A text that does
    not fill one is one shorter window. Raises InflightError where that is too short to be scored."""
    size = window - len(before)
    if len(tokens) < _LEAST_TOKENS:
        raise InflightError(
            f"There are {len(tokens)} tokens of text to predict; at least {_LEAST_TOKENS} are needed.",
            "Give a longer --text, or a larger --tokens where that is given.",
        )
    if size < _LEAST_TOKENS:
        raise InflightError(
            f"A window of {window} tokens has room for {size} of the text, beside {len(before)} that are put before "
            f"it; at least {_LEAST_TOKENS} are needed.",
            "Give a larger --window, or an engine with a larger max_seq_len.",
        )
    starts = range(0, max(len(tokens) - size, 0) + 1, size)
    return [(*before, *tokens[start : start + size]) for start in starts]


def first_scored(window: Sequence[int]) -> int:
    """The position of the first token of a window that is scored: its second half begins there."""
    return len(window) // 2

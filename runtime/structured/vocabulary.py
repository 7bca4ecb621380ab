"""The tokens of an engine as llguidance wants them: their bytes, and which of them spell a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import tokenizers

from inflight.runtime.structured.first_blank import FirstTokens
from inflight.runtime.text.tokenizer import Tokenizer

# Text that is put in front, so that a tokenizer which begins every text with a blank begins none with it.
_ANCHORS = ("", "\n", ".")


class Vocabulary:
    """Special tokens are no text: only an end token is ever allowed.

    An engine without end tokens gets one behind its vocabulary, since llguidance needs one; it is never chosen.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        count = min(tokenizer.vocab_size, vocab_size)
        special = [token_id for token_id in range(count) if tokenizer.special_piece(token_id) is not None]
        self.end_ids = list(end_ids) or [vocab_size]
        self.special_token_ids = sorted({*special, *self.end_ids})
        # Logits may have padding behind the tokenizer's vocabulary: tokens of no bytes are never allowed.
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(count)] + [b""] * (vocab_size - count)
        self.tokens += [] if end_ids else [b"<end>"]
        self.first_tokens = FirstTokens.of(tokenizer, self.tokens, count)
        self.eos_token_id = self.end_ids[0]
        self.bos_token_id = tokenizer.bos_token_id

    def __call__(self, text: str) -> list[int]:
        """Tokens whose bytes are those of `text`, which a grammar forces: as the tokenizer would have them behind other
        text, special tokens by their letters. Other bytes than the forced ones would end the sequence with an error.
        None, so that each token is chosen, where the vocabulary cannot spell it."""
        wanted = text.encode("utf-8")
        for anchor in _ANCHORS:
            ids = self._behind(self._encode(anchor + text), anchor.encode())
            if self._spells(ids, wanted):
                return ids
        return self._greedy(wanted)

    def _encode(self, text: str) -> list[int]:
        if not self._tokenizer.names_special_token(text):
            return self._tokenizer.encode(text, add_special_tokens=False)
        return list(self._letters.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _letters(self) -> tokenizers.Tokenizer:
        """The tokenizer without an eye for special tokens. For a large vocabulary it takes a second to make."""
        copy = tokenizers.Tokenizer.from_str(self._tokenizer.backend.to_str())
        copy.encode_special_tokens = True
        return copy

    def _behind(self, ids: list[int], anchor: bytes) -> list[int]:
        """The ids behind those of the anchor, with a blank before it or without."""
        head = b""
        for position, token_id in enumerate(ids):
            if head in (anchor, b" " + anchor):
                return ids[position:]
            head += self._bytes(token_id)
        return []

    def _spells(self, ids: list[int], wanted: bytes) -> bool:
        return self._specials.isdisjoint(ids) and b"".join(map(self._bytes, ids)) == wanted

    def _bytes(self, token_id: int) -> bytes:
        return self.tokens[token_id] if token_id < len(self.tokens) else b""

    def _greedy(self, wanted: bytes) -> list[int]:
        """The longest token at each place; none where there is a place without one."""
        ids: list[int] = []
        start = 0
        while start < len(wanted):
            ends = range(min(len(wanted), start + self._longest), start, -1)
            end = next((end for end in ends if wanted[start:end] in self._by_bytes), None)
            if end is None:
                return []
            ids.append(self._by_bytes[wanted[start:end]])
            start = end
        return ids

    @cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(self.special_token_ids)

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        return {each: token_id for token_id, each in enumerate(self.tokens) if each and token_id not in self._specials}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_bytes), default=0)

"""A tokenizer of many tokens that need not be read whole for the first short texts.

The library takes a third of a second to read a tokenizer.json of 150,000 tokens: more than everything else between a
command and its first token. With the index that build-engine leaves beside it
(`inflight.engine_format.vocabulary_index`), a text is encoded by the same library over the tokens that its bytes can
spell, which gives the same ids.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from tokenizers import AddedToken, Tokenizer

from inflight.runtime.text.stages import spell_bytes
from inflight.runtime.text.vocabulary_index import VocabularyIndex

# Looking up what one character can begin takes as long as reading some fifty tokens.
_CHARACTERS = 2_000


class IndexedBackend:
    """Stands for the `tokenizers.Tokenizer` that `read_whole` returns, and reads it when it must: for more than a few
    pages of text, or for anything that the index cannot answer. Safe to use from many threads.

    `finish` is applied to every tokenizer that is made of a part of the vocabulary.
    """

    def __init__(
        self, index: VocabularyIndex, read_whole: Callable[[], Tokenizer], finish: Callable[[Tokenizer], None]
    ) -> None:
        self._index, self._read_whole, self._finish = index, read_whole, finish
        self._whole: Tokenizer | None = None
        self._lock = threading.Lock()
        self._characters_left = _CHARACTERS
        # Added tokens have their ids because the model of the part knows them by those.
        self._added = {token["content"]: token["id"] for token in index.description.get("added_tokens", ())}
        self._frame = self._part({})
        if len(self._frame.get_added_tokens_decoder()) != len(self._added):
            raise ValueError("Tokens are added whose ids only the whole tokenizer knows.")
        self.decoder: Any = self._frame.decoder

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        """As `Tokenizer.encode`."""
        self._characters_left -= len(text)
        if self._whole is not None or self._characters_left < 0 or not self._is_normal(text):
            return self.whole().encode(text, add_special_tokens=add_special_tokens)
        return self._part(self._tokens_in(text)).encode(text, add_special_tokens=add_special_tokens)

    def token_to_id(self, token: str) -> int | None:
        found: int | None = self._frame.token_to_id(token)
        return self._index.token_id(token) if found is None else found

    def id_to_token(self, token_id: int) -> str | None:
        found: str | None = self._frame.id_to_token(token_id)
        return self._index.token(token_id) if found is None else found

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        found: dict[int, AddedToken] = self._frame.get_added_tokens_decoder()
        return found

    def whole(self) -> Tokenizer:
        with self._lock:
            if self._whole is None:
                self._whole = self._read_whole()
            return self._whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole(), name)

    def _is_normal(self, text: str) -> bool:
        normalizer = self._frame.normalizer
        return normalizer is None or bool(normalizer.normalize_str(text) == text)

    def _tokens_in(self, text: str) -> dict[str, int]:
        """All tokens that some stretch of the text's bytes spells, with their ids."""
        spelled = spell_bytes(text.encode("utf-8", errors="surrogatepass"))
        return {
            token: number for start in range(len(spelled)) for token, number in self._index.beginnings(spelled[start:])
        }

    def _part(self, vocabulary: dict[str, int]) -> Tokenizer:
        """The tokenizer with these tokens, the merges among them in their order, and the added tokens."""
        ids = {number: token for token, number in vocabulary.items()}
        merges = sorted(
            (rank, ids[left], ids[right])
            for number in ids
            for rank, left, right in self._index.merges(number)
            if left in ids and right in ids
        )
        description = self._index.description
        model = {
            **description["model"],
            "vocab": {**vocabulary, **self._added},
            "merges": [[left, right] for _, left, right in merges],
        }
        part = Tokenizer.from_str(json.dumps({**description, "model": model}))
        self._finish(part)
        return part


Backend: TypeAlias = Tokenizer | IndexedBackend

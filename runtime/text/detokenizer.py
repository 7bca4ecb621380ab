"""Token ids to text, a few at a time: the pieces joined are the text of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from inflight.runtime.text.stages import Stage, StageFactory


class Decoder(Protocol):
    """What detokenizing needs of a tokenizer."""

    @property
    def decoding_stages(self) -> Sequence[StageFactory] | None:
        """The stages that turn tokens into text; None for a decoder that only works on the whole."""
        ...

    def pieces(self, token_ids: Iterable[int], skip_special_tokens: bool) -> list[str]:
        """The tokens as the vocabulary spells them."""
        ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of the whole."""
        ...


class IncrementalDetokenizer:
    """Decodes one sequence. Constant time per token, however long the sequence.

    "".join of everything that `push` and `flush` return equals `tokenizer.decode` of all ids pushed, for any ids.
    Text is held back only while it can still change: an incomplete UTF-8 character. A tokenizer whose decoder is none
    of the known ones is decoded at the end.
    """

    def __init__(self, tokenizer: Decoder, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        stages = tokenizer.decoding_stages
        self._stages: list[Stage] | None = None if stages is None else [make() for make in stages]
        self._unread: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that has become certain. Ids outside the vocabulary have no text."""
        if self._stages is None:
            self._unread += token_ids
            return ""
        return "".join(self._run(self._tokenizer.pieces(token_ids, self._skip_special_tokens), 0))

    def flush(self) -> str:
        """The text that was held back, as if nothing followed."""
        if self._stages is None:
            unread, self._unread = self._unread, []
            return self._tokenizer.decode(unread, self._skip_special_tokens)
        text = ""
        for index, stage in enumerate(self._stages):
            text += "".join(self._run(stage.finish(), index + 1))
        return text

    def _run(self, pieces: Iterable[str], first_stage: int) -> Iterable[str]:
        assert self._stages is not None
        for stage in self._stages[first_stage:]:
            pieces = stage.feed(pieces)
        return pieces

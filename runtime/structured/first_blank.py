"""Texts of tokenizers that begin every text with a blank, and take a first blank away when they decode.

As Llama 2's and Mistral's, made by SentencePiece: "yes" is the token "▁yes", whose bytes are " yes". So the tokens of a
text have one blank more than it, or, where it begins with none, none more.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import dataclass

from inflight.runtime.structured.grammar import Grammar
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.runtime.text.words import takes_first_blank


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """Of the tokens that may begin a text, as bits of one integer: those that stand for their bytes there, and those
    that stand for their bytes without the blank in front. A token in neither loses more (`decoders.Metaspace` takes
    every blank of the first one), so that no text may begin with it."""

    whole: int
    without_blank: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, tokens: list[bytes], known: int) -> FirstTokens | None:
        """`tokens`: the bytes of each, of which the tokenizer knows the first `known`. None: it takes no blank."""
        if not takes_first_blank(tokenizer):
            return None
        whole, without = bytearray(b"\xff" * -(-len(tokens) // 8)), bytearray(-(-len(tokens) // 8))
        with_blank = [token_id for token_id in range(known) if b" " in tokens[token_id]]
        shown = tokenizer.backend.decode_batch([[each] for each in with_blank], skip_special_tokens=False)
        for token_id, text in zip(with_blank, shown, strict=True):
            place, bit = token_id >> 3, 1 << (token_id & 7)
            spelled = tokens[token_id]
            if text != spelled.decode(errors="replace"):
                whole[place] &= ~bit
            if spelled.startswith(b" ") and text == spelled[1:].decode(errors="replace"):
                without[place] |= bit
        return cls(int.from_bytes(whole, "little"), int.from_bytes(without, "little"))


def behind_a_blank(grammar: str) -> str:
    """The grammar of a blank and what `grammar` lets through, as llguidance reads it: Lark, or JSON of grammars."""
    try:
        first, *others = json.loads(grammar)["grammars"]
    except ValueError:
        first, others = {"lark_grammar": grammar}, []
    return json.dumps({"grammars": [{"lark_grammar": 'start: " " @text'}, {**first, "name": "text"}, *others]})


class FirstBlankGrammar(Grammar):
    """As Grammar: the first token decides whether the tokens have a blank more than the text.

    `plain` and `behind` are the beginnings of the text's grammar and of that behind a blank, which may be no Grammar
    where the vocabulary cannot begin it.
    """

    __slots__ = ("_begun", "_behind", "_first", "_plain", "_tokens")

    def __init__(self, plain: Grammar, behind: Grammar | object, tokens: FirstTokens) -> None:
        self._plain = plain
        self._behind = behind if isinstance(behind, Grammar) else None
        self._tokens = tokens
        self._begun: Grammar | None = None
        mask = plain.mask() or b""
        first = int.from_bytes(mask, "little") & tokens.whole
        if self._behind is not None:
            first |= int.from_bytes(self._behind.mask() or b"", "little") & tokens.without_blank
        self._first = first.to_bytes(len(mask), "little")

    def copy(self) -> Grammar:
        if self._begun is not None:
            return self._begun.copy()
        twin = copy(self)
        twin._plain = self._plain.copy()
        twin._behind = None if self._behind is None else self._behind.copy()
        return twin

    def mask(self) -> bytes | None:
        return self._first if self._begun is None else self._begun.mask()

    @property
    def without_mask(self) -> Grammar | None:
        return None if self._begun is None else self._begun.without_mask

    def accept(self, token_id: int) -> None:
        if self._begun is None:
            loses = self._tokens.without_blank >> token_id & 1
            self._begun = self._behind if loses and self._behind is not None else self._plain
        self._begun.accept(token_id)

    def forced(self) -> int | None:
        """None for the first token, which is sampled even where there is no other."""
        return None if self._begun is None else self._begun.forced()

    @property
    def ended(self) -> bool:
        return self._begun is not None and self._begun.ended

    @property
    def failure(self) -> str | None:
        return None if self._begun is None else self._begun.failure

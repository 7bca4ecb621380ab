"""The decoders of `tokenizers`, restated so that they work on a stream of tokens.

A tokenizer.json names its decoder: one step, or a sequence of steps, from token strings to text. Each class here is
one step with the same result on any split of the input, the library's own but for broken characters in ByteFallback;
`decoding_stages` reads the description.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"


class Stage(Protocol):
    """One step: pieces in, pieces out. `finish` returns what was held back, as if nothing followed."""

    def feed(self, pieces: Iterable[str]) -> list[str]: ...

    def finish(self) -> list[str]: ...


class PieceMap:
    """A decoder whose result for a piece depends on that piece and on whether it is the first."""

    def __init__(self, decode: Callable[[list[str]], str], cache: dict[str, str]) -> None:
        self._decode = decode
        self._cache = cache
        self._started = False

    def feed(self, pieces: Iterable[str]) -> list[str]:
        return [self._map(piece) for piece in pieces]

    def _map(self, piece: str) -> str:
        if not self._started:
            self._started = True
            return self._decode([piece])
        text = self._cache.get(piece)
        if text is None:
            text = self._cache[piece] = self._decode(["", piece])
        return text

    def finish(self) -> list[str]:
        return []


class ByteFallback:
    """Runs of byte pieces, `<0xE2>`, become characters, each as soon as it is whole; what is no UTF-8 becomes
    replacement characters.

    Here the library is not followed: it turns every byte of a run into a replacement character when one is wrong, so
    that nothing of a run would be certain before its end.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, pieces: Iterable[str]) -> list[str]:
        out: list[str] = []
        for piece in pieces:
            byte = byte_of_piece(piece)
            if byte is None:
                out += [*self.finish(), piece]
            elif text := self._decoder.decode(bytes([byte])):
                out.append(text)
        return out

    def finish(self) -> list[str]:
        text = self._decoder.decode(b"", final=True)
        return [text] if text else []


class ByteLevel:
    """Pieces spell bytes in the GPT-2 alphabet; the whole is UTF-8. An incomplete character is held back."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, pieces: Iterable[str]) -> list[str]:
        text = self._decoder.decode(b"".join(map(bytes_of_piece, pieces)))
        return [text] if text else []

    def finish(self) -> list[str]:
        text = self._decoder.decode(b"", final=True)
        return [text] if text else []


class StripHead:
    """Remove up to `count` leading `content` characters of the whole text (a Strip that follows Fuse)."""

    def __init__(self, content: str, count: int) -> None:
        self._content = content
        self._left = count

    def feed(self, pieces: Iterable[str]) -> list[str]:
        out = []
        for piece in pieces:
            while self._left and piece:
                if piece[0] != self._content:
                    self._left = 0
                else:
                    piece = piece[1:]
                    self._left -= 1
            out.append(piece)
        return out

    def finish(self) -> list[str]:
        return []


def byte_of_piece(piece: str) -> int | None:
    """The byte that `<0xE2>` stands for; None for any other piece."""
    if len(piece) != 6 or not piece.startswith("<0x") or piece[5] != ">":
        return None
    try:
        return int(piece[3:5], 16)
    except ValueError:
        return None


def _gpt2_alphabet() -> dict[str, int]:
    """Printable Latin-1 stands for itself; the other bytes are the code points from 256 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(rest)}


_ALPHABET = _gpt2_alphabet()
_SPELLING = {byte: character for character, byte in _ALPHABET.items()}


def bytes_of_piece(piece: str) -> bytes:
    """The bytes that a byte-level piece spells; an added token outside the alphabet is its own UTF-8."""
    try:
        return bytes([_ALPHABET[character] for character in piece])
    except KeyError:
        return piece.encode("utf-8")


def spell_bytes(data: bytes) -> str:
    """The byte-level piece that spells `data`."""
    return "".join(map(_SPELLING.__getitem__, data))


StageFactory = Callable[[], Stage]
_PER_PIECE = ("Replace", "Strip", "Metaspace", "WordPiece")


def decoding_stages(description: dict[str, Any] | None) -> Sequence[StageFactory] | None:
    """The stages of a decoder as tokenizer.json describes it; None when its result cannot be known piece by piece."""
    if description is None:
        cache: dict[str, str] = {}
        return [lambda: PieceMap(" ".join, cache)]
    factories: list[StageFactory] = []
    fused = False
    for step in _steps(description):
        factory = _whole_text_stage(step) if fused else _piece_stage(step)
        fused = fused or step["type"] in ("Fuse", "ByteLevel")
        if step["type"] == "Fuse":
            continue
        if factory is None:
            return None
        factories.append(factory)
    return factories


def _steps(description: dict[str, Any]) -> list[dict[str, Any]]:
    """A decoder as a flat list; sequences may be nested."""
    if description["type"] != "Sequence":
        return [description]
    return [step for part in description["decoders"] for step in _steps(part)]


def _piece_stage(step: dict[str, Any]) -> StageFactory | None:
    kind = step["type"]
    if kind == "ByteLevel":
        return ByteLevel
    if kind == "ByteFallback":
        return ByteFallback
    if kind not in _PER_PIECE:
        return None
    decoder = _library_decoder(step)
    cache: dict[str, str] = {}
    return lambda: PieceMap(decoder.decode, cache)


def _library_decoder(step: dict[str, Any]) -> Any:
    """The decoder that `step` describes. The library reads a decoder only as part of a tokenizer."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    return Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, "decoder": step})).decoder


def _whole_text_stage(step: dict[str, Any]) -> StageFactory | None:
    if step["type"] != "Strip" or step["stop"] != 0:
        return None
    content, count = step["content"], step["start"]
    return lambda: StripHead(content, count)

"""A model's tokenizer: text to token ids, token ids to text, messages to a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from inflight.errors import RequestError
from inflight.runtime.text.chat.chat_messages import Message
from inflight.runtime.text.chat.chat_template import ChatTemplate
from inflight.runtime.text.detokenizer import IncrementalDetokenizer
from inflight.runtime.text.indexed_backend import Backend
from inflight.runtime.text.loading import load_backend, load_chat_template, named_special_tokens
from inflight.runtime.text.stages import REPLACEMENT, StageFactory, byte_of_piece, bytes_of_piece, decoding_stages

# What is longer takes more than some 5 milliseconds to encode.
MANY_CHARACTERS = 4096
# Ids are unsigned 32-bit numbers to the library, which refuses others instead of finding no token for them.
_LARGEST_ID = (1 << 32) - 1


class Tokenizer:
    """A tokenizer without a model. Safe to use from many threads.

    `backend` is the `tokenizers` object, without truncation and padding, or what stands for it; `special_tokens` are
    the named ones (`bos_token`, `eos_token`, ...); `chat_template` is None for a model that has none;
    `template_is_given`: it is not the model's own.
    """

    def __init__(
        self,
        backend: Backend,
        special_tokens: dict[str, str] | None = None,
        chat_template: ChatTemplate | None = None,
        template_is_given: bool = False,
    ) -> None:
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template
        self.template_is_given = template_is_given
        added = backend.get_added_tokens_decoder().values()
        self._special_pieces = frozenset(token.content for token in added if token.special)
        self._pieces: dict[int, str | None] = {}

    def with_chat_template(self, source: str) -> Tokenizer:
        """The same tokenizer with another chat template. Raises RequestError for one that cannot be read."""
        template = ChatTemplate({"default": source})
        template.check()
        return Tokenizer(self.backend, self.special_tokens, template, template_is_given=True)

    @cached_property
    def vocab_size(self) -> int:
        """The number of tokens, added ones included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def bos_token_id(self) -> int | None:
        return self.special_token_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self.special_token_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self.special_token_id("pad_token")

    def special_token_id(self, name: str) -> int | None:
        """The id of a named special token, `bos_token` and the like; None when the tokenizer does not name it."""
        token = self.special_tokens.get(name)
        return None if token is None else self.token_id(token)

    def token_id(self, token: str) -> int | None:
        """The id of a vocabulary entry, spelled as in tokenizer.json."""
        found = self.backend.token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Special tokens spelled out in the text become their ids, as in transformers.

        Raises RequestError for a string that is no text: half of a surrogate pair, which JSON can spell.
        """
        try:
            if len(text) < MANY_CHARACTERS:
                return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)
            # Of the two, only this one lets other threads of Python run meanwhile.
            return list(self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
        except TypeError:
            raise RequestError("The text holds half of a surrogate pair, which is no character.") from None

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of the whole sequence, as the tokenizers library has it. Ids outside the vocabulary have no text.

        It differs from the library in one place: where byte tokens of a SentencePiece vocabulary (`<0xE2>`) do not
        spell UTF-8, only the broken characters become replacement characters (one for each longest part that could
        have begun a character), not every byte of the run. So a stream can show each character when it is whole.
        """
        known = [token_id for token_id in token_ids if 0 <= token_id <= _LARGEST_ID]
        text = str(self.backend.decode(known, skip_special_tokens=skip_special_tokens))
        if REPLACEMENT not in text or self.decoding_stages is None:
            return text
        detokenizer = self.detokenizer(skip_special_tokens)
        return detokenizer.push(known) + detokenizer.flush()

    def detokenizer(self, skip_special_tokens: bool = True) -> IncrementalDetokenizer:
        """A decoder for one growing sequence."""
        return IncrementalDetokenizer(self, skip_special_tokens)

    def render_chat(
        self,
        messages: Sequence[Message],
        /,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        documents: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        adapt_tools: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation, special tokens spelled out; encode it without adding special tokens.

        As transformers' apply_chat_template, and beyond it: the role developer is system to a template that does not
        name it, and content in parts is joined for a template that takes strings alone. `documents` are dicts, usually
        with title and text. `continue_final_message` leaves the last message open, so that the model goes on with it;
        it needs add_generation_prompt=False. `adapt_tools`: arguments of calls become an object, or JSON text for a
        template that takes text, and a template that does not read `tools` is told of them and of calls in words.
        `variables` are passed to the template (`enable_thinking` and the like).
        Raises RequestError when the model has no chat template, or the template does not accept the messages.
        """
        if self.chat_template is None:
            raise RequestError(
                "This model has no chat template, so it cannot take messages.",
                "Send a plain prompt, or convert the model with a chat_template.jinja beside its tokenizer.json.",
            )
        return self.chat_template.render(
            messages,
            tools,
            documents,
            add_generation_prompt,
            continue_final_message,
            {**self.special_tokens, **variables},
            adapt_tools,
        )

    def encode_chat(
        self, messages: Sequence[Message], /, *, add_special_tokens: bool = False, **options: Any
    ) -> list[int]:
        """Token ids of `render_chat(messages, **options)`.

        add_special_tokens: those of `encode` as well, which most templates spell themselves.
        """
        return self.encode(self.render_chat(messages, **options), add_special_tokens)

    @cached_property
    def decoding_stages(self) -> Sequence[StageFactory] | None:
        """What IncrementalDetokenizer runs; None for a decoder that only works on the whole."""
        decoder = self.backend.decoder
        return decoding_stages(None if decoder is None else json.loads(decoder.__getstate__()))

    @cached_property
    def _is_byte_level(self) -> bool:
        decoder = self.backend.decoder
        return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    def pieces(self, token_ids: Iterable[int], skip_special_tokens: bool) -> list[str]:
        """Vocabulary entries of `token_ids`, without unknown ids and, on request, without special tokens."""
        found = [self.piece(token_id) for token_id in token_ids]
        hidden: frozenset[str] = self._special_pieces if skip_special_tokens else frozenset()
        return [piece for piece in found if piece is not None and piece not in hidden]

    def special_piece(self, token_id: int) -> str | None:
        """The text of a special token; None for any other."""
        piece = self.piece(token_id)
        return piece if piece in self._special_pieces else None

    def names_special_token(self, text: str) -> bool:
        """Whether the text of some special token is part of `text`."""
        return any(piece in text for piece in self._special_pieces if piece)

    def piece(self, token_id: int) -> str | None:
        """The vocabulary entry of an id, spelled as in tokenizer.json; None for an id outside the vocabulary."""
        if not 0 <= token_id <= _LARGEST_ID:
            return None
        if token_id not in self._pieces:
            self._pieces[token_id] = self.backend.id_to_token(token_id)
        return self._pieces[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to the text, as bytes: it may be part of a character. Empty outside the vocabulary."""
        piece = self.piece(token_id)
        if piece is None:
            return b""
        if piece in self._special_pieces:
            return piece.encode("utf-8")
        if self._is_byte_level:
            return bytes_of_piece(piece)
        byte = byte_of_piece(piece)
        return piece.replace("▁", " ").encode("utf-8") if byte is None else bytes([byte])

    def token_text(self, token_id: int) -> str:
        """`token_bytes` as text; what is no whole character reads as replacement characters."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")


def load_tokenizer(directory: Path, lazily: bool = False) -> Tokenizer:
    """Load ENGINE/tokenizer, or any directory with the tokenizer files of a Hugging Face model.

    lazily: a large tokenizer is read when more than short texts need it, where the engine has an index of it. Raises
    InflightError when files are missing or cannot be read. Nothing is fetched and no code of the model is run.
    """
    directory = Path(directory)
    backend, config = load_backend(directory, lazily)
    template = load_chat_template(directory, config)
    return Tokenizer(backend, named_special_tokens(config), template)


class TokenIdsOnly(Tokenizer):
    """The tokenizer of an engine that has none: ids have no text, and text is refused."""

    def __init__(self) -> None:
        super().__init__(tokenizers.Tokenizer(tokenizers.models.BPE()))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Raises RequestError."""
        raise RequestError(
            "This engine has no tokenizer, so prompts, stop strings and bad words must be token ids.",
            "Give prompt_token_ids, stop_token_ids and bad_word_ids, or build from a checkpoint with tokenizer files.",
        )

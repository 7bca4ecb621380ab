"""A text, or a pair of texts, as an engine that pools takes it: token ids, and the kinds of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inflight.engine_format.manifest import EngineManifest, PoolingFacts
from inflight.errors import EngineError, RequestError
from inflight.runtime.pooling.pair_template import Pair, pair_template
from inflight.runtime.text.tokenizer import MANY_CHARACTERS, TokenIdsOnly, Tokenizer

# As a length to truncate to: as many tokens as the engine takes.
ALL_THAT_FIT = -1
_TRUNCATE = "truncate_prompt_tokens"
_PLACES = {"cls": "first", "last": "last"}


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """`token_types` is as long as `token_ids`, or empty where the model tells no kinds apart. `each_token`: nothing is
    pooled of it, and each of its tokens has a vector."""

    token_ids: tuple[int, ...]
    token_types: tuple[int, ...] = ()
    each_token: bool = False


def pooling_facts(manifest: EngineManifest) -> PoolingFacts:
    """What becomes of hidden states. Raises EngineError for an engine that generates text."""
    if not isinstance(manifest.pooling, PoolingFacts):
        raise EngineError(
            f"This engine generates text ({manifest.model.architecture}); it makes no embeddings and no scores.",
            "Build one from an embedding model or a cross-encoder: docs/formats/embeddings.md.",
        )
    return manifest.pooling


class TextReader:
    """Texts to TokenizedText, with the special tokens of the tokenizer. Safe to use from many threads.

    Every method raises RequestError for what the engine cannot take: nothing, too many tokens, half of a surrogate
    pair. `truncate`: keep so many tokens of what is longer, ALL_THAT_FIT for as many as the engine takes. Special
    tokens stay, and the first tokens of a text are kept; of a pair the longer one is cut first, as
    sentence-transformers has it. None: refuse what is longer than the engine takes. An error of its value has it as
    its `param`.
    """

    def __init__(self, manifest: EngineManifest, tokenizer: Tokenizer) -> None:
        self.facts = pooling_facts(manifest)
        self.max_tokens = manifest.limits.max_seq_len
        self._each_token = self.facts.task == "token_classify"
        self._yields_all = manifest.limits.max_logit_rows >= manifest.limits.max_num_tokens
        self._vocab_size = manifest.model.vocab_size
        self._tokenizer = tokenizer
        self._backend: Any = tokenizer.backend
        self._template = pair_template(self.facts, tokenizer)

    def prompt(self, name: str | None) -> str:
        """What is put in front of texts under this name; None: under the model's default one."""
        name = self.facts.default_prompt if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.facts.prompts:
            known = ", ".join(map(repr, self.facts.prompts)) or "none"
            raise RequestError(f"prompt_name {name!r} is no prompt of this model.", f"It has {known}.")
        return self.facts.prompts[name]

    @property
    def usual_instruction(self) -> str | None:
        """That of pairs that have none of their own; None where there is none, or nothing tells it."""
        if self._template is None or not self._template.takes_instruction:
            return None
        return self.prompt(None) or self._template.usual_instruction

    def text(
        self, text: str, *, truncate: int | None = None, prompt: str = "", add_special_tokens: bool = True
    ) -> TokenizedText:
        """One text, with `prompt` in front of it."""
        self.check_text(text, "The input")
        return self._tokenized((prompt + text,), truncate, add_special_tokens)

    def pair(
        self, first: str, second: str, *, truncate: int | None = None, instruction: str | None = None
    ) -> TokenizedText:
        """Two texts that the model reads together: a query and a document, say. `instruction`: what makes a document
        the right one, to a model whose template has a place for it; None: the model's own."""
        self.check_text(first, "The query")
        self.check_text(second, "The document")
        self.check_instruction(instruction)
        if self._template is None:
            return self._tokenized((first, second), truncate)
        limit = self._check_tokenizer(first, truncate)
        usual = self.prompt(None) if self._template.takes_instruction else ""
        return self._read(self._framed(self._template.pair(first, second, instruction or usual), limit))

    def shortened(self, text: str, tokens: int | None) -> str:
        """The first so many tokens of a text, in its own characters; 0 or None: all of it."""
        if not tokens or isinstance(self._tokenizer, TokenIdsOnly):
            return text
        return _cut(text, self._with_offsets(text), tokens)

    def check_instruction(self, instruction: str | None) -> None:
        """Raises RequestError for an instruction that the model has no place for, or that has no encoding."""
        if instruction is None:
            return
        if not isinstance(instruction, str):
            raise RequestError(f"The instruction must be a string, not {instruction!r}.")
        if self._template is None or not self._template.takes_instruction:
            raise RequestError(
                "This model takes no instruction: the template of its pairs, if it has one, has no place for it.",
                "Leave it out.",
            )
        if instruction:
            self.check_text(instruction, "The instruction")

    def check_each_token(self) -> None:
        """Raises RequestError where the engine has no room for the hidden states of all tokens of a step."""
        if not self._yields_all:
            raise RequestError(
                f"This engine yields the hidden state of the {_PLACES.get(self.facts.pooling, 'pooled')} token of a "
                "text alone, so that it has no vectors of single tokens.",
                "Build it with --max-logit-rows as large as --max-num-tokens, which is at least --max-seq-len.",
            )

    def check_text(self, text: str, called: str) -> None:
        """Raises RequestError for a text that has nothing to read, or no encoding."""
        if not text:
            raise RequestError(f"{called} is an empty text.", "Give it at least one character.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{called} holds half of a surrogate pair, which is no character.") from None

    def check_truncation(self, truncate: int | None) -> None:
        """Raises RequestError for a length that no text is truncated to."""
        self._limit(truncate)

    def ids(self, token_ids: Sequence[int], *, truncate: int | None = None) -> TokenizedText:
        """Token ids as they are: no special tokens are added."""
        limit = self._limit(truncate)
        kept = tuple(token_ids if limit is None else token_ids[:limit])
        if not kept:
            raise RequestError("The input has no tokens.", "Give it at least one token id.")
        wrong = next((token for token in kept if not 0 <= token < self._vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"The input has the token id {wrong}; the vocabulary has {self._vocab_size}, "
                f"0 to {self._vocab_size - 1}.",
                "Use the tokenizer that the engine was built with.",
            )
        self._check_length(len(kept))
        return TokenizedText(kept, each_token=self._each_token)

    def _tokenized(self, texts: tuple[str, ...], truncate: int | None, special: bool = True) -> TokenizedText:
        limit = self._check_tokenizer(texts[0], truncate)
        encoding = self._encode(texts if len(texts) > 1 else texts[0], special)
        if limit is not None and len(encoding) > limit:
            encoding = self._truncated(texts, limit, special)
        return self._read(encoding)

    def _check_tokenizer(self, text: str, truncate: int | None) -> int | None:
        """What `truncate` means. Raises RequestError where there is no tokenizer."""
        if isinstance(self._tokenizer, TokenIdsOnly):
            self._tokenizer.encode(text)  # Raises RequestError, which says why.
        return self._limit(truncate)

    def _read(self, encoding: Any) -> TokenizedText:
        self._check_length(len(encoding))
        if not len(encoding):
            raise RequestError("The tokenizer makes no token of the input.", "Give it another text.")
        ids = tuple(encoding.ids)
        wrong = max(ids)
        if wrong >= self._vocab_size:
            raise RequestError(f"The text has the token id {wrong}, which the model does not know.", "Leave it out.")
        kinds = self.facts.token_types
        types = tuple(min(kind, kinds - 1) for kind in encoding.type_ids) if kinds > 1 else ()
        return TokenizedText(ids, types, self._each_token)

    def _truncated(self, texts: tuple[str, ...], limit: int, special: bool) -> Any:
        parts = [self._encode(text, special=False) for text in texts]
        added = self._backend.num_special_tokens_to_add(len(texts) > 1) if special else 0
        room = limit - added
        if room < len(texts):
            raise RequestError(
                f"truncate_prompt_tokens {limit} leaves no room beside {added} special tokens.",
                param=_TRUNCATE,
            )
        for part, length in zip(parts, _lengths([len(part) for part in parts], room), strict=True):
            part.truncate(length)
        return self._backend.post_process(*parts, add_special_tokens=special)

    def _framed(self, pair: Pair, limit: int | None) -> Any:
        """A pair in its template; where that is too long, the texts are cut and the rest stays."""
        encoding = self._encode(*pair.render(*pair.texts))
        if limit is None or len(encoding) <= limit:
            return encoding
        parts = [self._with_offsets(text) for text in pair.texts]
        beside = len(encoding) - sum(map(len, parts))
        while len(encoding) > limit:
            if limit - beside < len(parts):
                raise RequestError(
                    f"truncate_prompt_tokens {limit} leaves no room beside {beside} tokens of the model's prompt.",
                    param=_TRUNCATE,
                )
            lengths = _lengths([len(part) for part in parts], limit - beside)
            first, second = map(_cut, pair.texts, parts, lengths)
            encoding = self._encode(*pair.render(first, second))
            # Tokens at the ends of a text that is cut may be others, and more.
            beside += max(len(encoding) - limit, 0)
        return encoding

    def _encode(self, text: str | tuple[str, ...], special: bool) -> Any:
        if sum(map(len, text)) < MANY_CHARACTERS:
            pair = text if isinstance(text, tuple) else (text,)
            return self._backend.encode(*pair, add_special_tokens=special)
        # Of the two, only this one lets other threads of Python run meanwhile.
        return self._backend.encode_batch_fast([text], add_special_tokens=special)[0]

    def _with_offsets(self, text: str) -> Any:
        """A text alone, and where in it each token is: what `_encode` makes of a long one has no offsets."""
        return self._backend.encode_batch([text], add_special_tokens=False)[0]

    def _limit(self, truncate: int | None) -> int | None:
        if truncate is not None and (truncate > self.max_tokens or truncate < ALL_THAT_FIT or truncate == 0):
            raise RequestError(
                f"truncate_prompt_tokens is {truncate}; it may be 1 to {self.max_tokens}, or -1 for all that fit.",
                param=_TRUNCATE,
            )
        return self.max_tokens if truncate == ALL_THAT_FIT else truncate

    def _check_length(self, length: int) -> None:
        if length > self.max_tokens:
            raise RequestError(
                f"This model's maximum context length is {self.max_tokens} tokens. The input has {length}.",
                "Shorten it, or set truncate_prompt_tokens.",
            )


def _cut(text: str, encoding: Any, length: int) -> str:
    """The first `length` tokens of a text."""
    return text if length >= len(encoding) else text[: encoding.offsets[length - 1][1]]


def _lengths(lengths: list[int], room: int) -> list[int]:
    """How many tokens are kept of each of one or two texts, longest first."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    short, long = sorted(lengths)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]

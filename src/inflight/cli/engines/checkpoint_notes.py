"""What a user should know of a checkpoint before it serves: what its tokenizer, end tokens and chat template lack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from inflight.errors import InflightError, RequestError

if TYPE_CHECKING:
    from inflight.convert.checkpoint.directory import Checkpoint


def checkpoint_notes(model: str, checkpoint: Checkpoint) -> Iterator[str]:
    """Sentences; `model` is what the user calls the source of `checkpoint`."""
    directory = checkpoint.tokenizer_directory
    if directory is None:
        yield f"{model} has no tokenizer: the engine takes token ids only, in Python (LLM); inflight serve refuses it."
    facts, pooling = checkpoint.config.inflight, checkpoint.config.pooling
    pools = pooling is not None
    ends, size = () if facts is None else facts.end_token_ids, checkpoint.config.vocab_size
    if not pools and not any(token < size for token in ends):
        beyond = f" ({ends[0]} is beyond its vocabulary of {size:,})" if ends else ""
        yield (
            f"{model} names no end token{beyond}: answers end at stop strings, stop tokens and max_tokens alone. "
            "eos_token_id in its generation_config.json would name one."
        )
    if directory is not None and not pools:
        yield from _chat_notes(model, directory)
    if pooling is not None and pooling.pair_template is not None:
        yield from _pair_notes(model, pooling.pair_template.source)


def _pair_notes(model: str, source: str) -> Iterator[str]:
    from inflight.runtime.text.chat.chat_template import ChatTemplate

    try:
        ChatTemplate({"default": source}).check()
    except RequestError as error:
        yield f"{model}: {error} Pairs are refused unless --chat-template FILE gives another one."


def _chat_notes(model: str, directory: Path) -> Iterator[str]:
    from inflight.runtime.text.loading import load_chat_template, read_tokenizer_config

    try:
        template = load_chat_template(directory, read_tokenizer_config(directory))
        if template is not None:
            template.check()
    except RequestError as error:
        yield f"{model}: {error} Chats are refused unless --chat-template FILE gives another one."
    except InflightError as error:
        yield f"{model}: {error}"

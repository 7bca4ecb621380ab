"""The files of a Hugging Face tokenizer, which travel with the weights, and a trial of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inflight.errors import ModelError
from inflight.files.json_file import read_json_object
from inflight.files.stand_in import START_BYTES, refuse_stand_in

TOKENIZER_PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "spm.model", "vocab.json", "vocab.txt")
_TRIAL = "Hello, world! 0123\n"
_SHOWN = 8
_AS_TRAINED = "Give --score-tokens as the model was trained: yes,no for Qwen3-Reranker."


def tokenizer_files(directory: Path) -> list[Path]:
    """The tokenizer's files in `directory`, in the order of their names; none when there is no vocabulary."""
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        return []
    return sorted(path for pattern in TOKENIZER_PATTERNS for path in directory.glob(pattern) if path.is_file())


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files of the directory `source` to `target`, which is made if there are any. Where there is
    no tokenizer.json, one is made of the others. Raises ModelError for files that are no tokenizer.
    """
    files = tokenizer_files(source)
    for path in files:
        with path.open("rb") as file:
            refuse_stand_in(path, file.read(START_BYTES), ModelError)
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
    if files and not (target / "tokenizer.json").is_file():
        from inflight.convert.source.tokenizer_json import write_tokenizer_json

        write_tokenizer_json(source, target)


def ids_of_tokens(directory: Path, tokens: Sequence[str]) -> dict[str, int]:
    """The ids of texts that are one token each to the tokenizer in `directory`. Raises ModelError for one that is
    not."""
    backend, unknown = _backend(directory)
    if backend is None:
        raise ModelError(f"{directory} has no tokenizer, in which the tokens {', '.join(tokens)} could be found.")
    found = {token: backend.encode(token, add_special_tokens=False).ids for token in tokens}
    for token, ids in found.items():
        if len(ids) != 1:
            raise ModelError(
                f"{token!r} is {len(ids)} tokens to the tokenizer of {directory}; a score is the logit of one.",
                _AS_TRAINED,
            )
        if ids[0] == unknown and backend.token_to_id(token) != unknown:
            raise ModelError(f"{token!r} is not in the vocabulary of {directory}.", _AS_TRAINED)
    if len({ids[0] for ids in found.values()}) < len(found):
        raise ModelError(
            f"{' and '.join(map(repr, found))} are one token to the tokenizer of {directory}: no score by both.",
            _AS_TRAINED,
        )
    return {token: int(ids[0]) for token, ids in found.items()}


def texts_of_tokens(directory: Path, ids: Sequence[int]) -> list[str | None]:
    """What the tokenizer in `directory` writes for each token; None where there is none, or it knows no such token.
    Raises ModelError for files that are no tokenizer."""
    backend, _ = _backend(directory)
    if backend is None:
        return [None] * len(ids)
    size = backend.get_vocab_size()
    known = [each if each < size else None for each in ids]
    # What is nothing but half of a character, or a blank that is left out in front, has its name in the vocabulary.
    return [
        None if each is None else backend.decode([each], skip_special_tokens=False) or backend.id_to_token(each)
        for each in known
    ]


def _backend(directory: Path) -> tuple[Any, int | None]:
    """The tokenizer in `directory`, None where there is none, and the id that it gives what it does not know."""
    import tokenizers

    with TemporaryDirectory() as scratch:
        copy_tokenizer(directory, Path(scratch))
        file = Path(scratch) / "tokenizer.json"
        if not file.is_file():
            return None, None
        try_tokenizer(Path(scratch), 1 << 32)
        backend: Any = tokenizers.Tokenizer.from_file(str(file))
        unknown = _unknown_id(read_json_object(file, ModelError))
    backend.no_padding()
    backend.no_truncation()
    return backend, unknown


def _unknown_id(tokenizer: Mapping[str, Any]) -> int | None:
    """The id that the model of a tokenizer.json gives what it does not know; None: it has none."""
    model = tokenizer.get("model") or {}
    added = {each["content"]: each["id"] for each in tokenizer.get("added_tokens") or ()}
    token, vocabulary = model.get("unk_token"), model.get("vocab")
    if isinstance(vocabulary, dict) and token is not None:
        return added.get(token, vocabulary.get(token))
    found = model.get("unk_id")
    return found if isinstance(found, int) else None


def try_tokenizer(directory: Path, vocab_size: int) -> list[str]:
    """Load tokenizer.json, encode and decode; what a user should know of it, in sentences.

    Raises ModelError when it cannot be loaded, or makes nothing of a text.
    """
    import tokenizers

    file = directory / "tokenizer.json"
    if not file.is_file():
        return []
    try:
        backend: Any = tokenizers.Tokenizer.from_file(str(file))
        ids = backend.encode(_TRIAL).ids
        backend.decode(ids)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # bare Exception, or a panic, which is none
        raise ModelError(
            f"{file.name} is no tokenizer that can be used: {error}", "Copy it from the model again."
        ) from error
    if not backend.encode(_TRIAL, add_special_tokens=False).ids:
        raise ModelError(f"{file.name} makes no token of {_TRIAL!r}.", "Copy it from the model again.")
    beyond = sorted((i, token) for token, i in backend.get_vocab(with_added_tokens=True).items() if i >= vocab_size)
    if not beyond:
        return []
    listed = ", ".join(f"{token!r} ({i})" for i, token in beyond[:_SHOWN])
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    return [
        f"The tokenizer has {len(beyond)} token(s) beyond the model's vocabulary of {vocab_size:,}; a prompt with one "
        f"is refused: {listed}{more}."
    ]

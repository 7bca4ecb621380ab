"""Reading tokenizer files, without transformers where possible: importing it takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from inflight.engine_format.vocabulary_index import INDEX_NAME
from inflight.errors import InflightError
from inflight.files.json_file import read_json_object
from inflight.runtime.text import token_entries
from inflight.runtime.text.chat.chat_template import ChatTemplate
from inflight.runtime.text.indexed_backend import Backend, IndexedBackend
from inflight.runtime.text.vocabulary_index import VocabularyIndex

# transformers takes tokenizer.json as it is for these classes; for others it may build the pipeline anew.
_TAKEN_AS_IS = {None, "PreTrainedTokenizerFast", "TokenizersBackend"}
_COPY = "Copy it from the model again."


def load_backend(directory: Path, lazily: bool = False) -> tuple[Backend, dict[str, Any]]:
    """The tokenizer of `directory` and the contents of its tokenizer_config.json, special tokens merged in.

    lazily: the tokenizer may be read when it is needed as a whole. Raises InflightError when there is no tokenizer or
    it cannot be read.
    """
    if not directory.is_dir():
        raise InflightError(f"{directory} has no tokenizer files.", "Prompts can still be given as token ids.")
    config = read_tokenizer_config(directory)
    indexed = _indexed_backend(directory, config) if lazily else None
    return _whole_backend(directory, config) if indexed is None else (indexed, config)


def _indexed_backend(directory: Path, config: dict[str, Any]) -> IndexedBackend | None:
    """None where the engine has no index, or an incomplete one."""
    try:
        index = VocabularyIndex(directory / INDEX_NAME)
        backend = IndexedBackend(
            index, lambda: _whole_backend(directory, config)[0], lambda part: _add_tokens(part, config)
        )
    except (OSError, ValueError):
        return None
    return backend if _is_taken_as_is(backend, config) else None


def _whole_backend(directory: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    file = directory / "tokenizer.json"
    backend = _read_backend(file) if file.is_file() else None
    if backend is not None and _is_taken_as_is(backend, config):
        _add_tokens(backend, config)
    else:
        backend, config = _load_with_transformers(directory, config)
    backend.no_truncation()
    backend.no_padding()
    return backend, config


def named_special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The special tokens that have a name, as chat templates see them."""
    return {name: token_entries.content(token) for name, token in token_entries.named(config).items()}


def load_chat_template(directory: Path, config: dict[str, Any]) -> ChatTemplate | None:
    """The model's chat template, from where transformers saves it: chat_template.jinja is the default one,
    additional_chat_templates/NAME.jinja are others. Without such files, what tokenizer_config.json has, one template
    or a list of named ones, or else chat_template.json, the older file of a processor.

    Raises InflightError for a file that cannot be read.
    """
    files = {file.stem: file for file in sorted((directory / "additional_chat_templates").glob("*.jinja"))}
    files |= {"default": directory / "chat_template.jinja"}
    sources = {name: _read_text(file) for name, file in files.items() if file.is_file()}
    if "default" not in sources:
        configured = config.get("chat_template") or _read_json(directory / "chat_template.json").get("chat_template")
        sources = _configured_templates(configured) | sources
    return ChatTemplate(sources) if sources else None


def _configured_templates(configured: Any) -> dict[str, str]:
    if isinstance(configured, dict):
        return {str(name): str(template) for name, template in configured.items()}
    if isinstance(configured, list):
        entries = [entry for entry in configured if isinstance(entry, dict) and {"name", "template"} <= entry.keys()]
        return {str(entry["name"]): str(entry["template"]) for entry in entries}
    return {"default": configured} if isinstance(configured, str) else {}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InflightError(f"{file} cannot be read: {error}", _COPY) from error


def read_tokenizer_config(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json, special_tokens_map.json merged in; empty where there is none. Raises InflightError for
    a file that cannot be read, or that says of tokens what cannot be."""
    config = _read_json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _read_json(directory / "special_tokens_map.json")
    problems = token_entries.problems(config)
    if problems:
        raise InflightError(f"{directory / 'tokenizer_config.json'}: {'; '.join(problems)}.", _COPY)
    return config


def _read_json(file: Path) -> dict[str, Any]:
    return read_json_object(file, InflightError, _COPY) if file.is_file() else {}


def _is_taken_as_is(backend: Backend, config: dict[str, Any]) -> bool:
    """Byte-level pipelines are the same for every class; SentencePiece ones are not."""
    if config.get("tokenizer_class") in _TAKEN_AS_IS:
        return True
    return backend.decoder is not None and b'"ByteLevel"' in backend.decoder.__getstate__()


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InflightError(f"{file} cannot be read: {error}", _COPY) from error


def _add_tokens(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Tokens that only tokenizer_config.json knows, in the order of transformers: by id, then the named ones."""
    named = list(token_entries.named(config).values())
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in [*token_entries.listed_by_id(config), *named, *token_entries.further(config)]:
        if token_entries.content(token) not in known:
            known.add(token_entries.content(token))
            backend.add_tokens([token_entries.added_token(token)])
    backend.add_special_tokens([token_entries.added_token(token) for token in named])


def _load_with_transformers(directory: Path, config: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        backend = loaded.backend_tokenizer
    except Exception as error:  # any of the many ways in which third-party files can be wrong
        raise InflightError(f"The tokenizer in {directory} cannot be loaded: {error}") from error
    return backend, config | loaded.special_tokens_map

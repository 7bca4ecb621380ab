"""The end token that a tokenizer names, which after fine-tuning for chat may be in neither config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tokenizer_end_token(directory: Path) -> int | None:
    """The id of the `eos_token` of tokenizer_config.json, or of special_tokens_map.json; None when no file of the
    tokenizer names one or has it in its vocabulary. Files that cannot be read count as absent: whoever uses them as a
    tokenizer says so."""
    config = _json(directory / "tokenizer_config.json")
    # As transformers reads the two.
    if "added_tokens_decoder" not in config:
        config = config | _json(directory / "special_tokens_map.json")
    named = config.get("eos_token")
    token = named.get("content") if isinstance(named, dict) else named
    if not isinstance(token, str):
        return None
    return next((found for found in _ids(directory, config, token) if _is_id(found)), None)


def _ids(directory: Path, config: dict[str, Any], token: str) -> Iterator[Any]:
    """What each file says, those first that go before the others."""
    described = _json(directory / "tokenizer.json")
    added = described.get("added_tokens")
    yield from (each.get("id") for each in _dicts(added) if each.get("content") == token)
    model = described.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield vocabulary.get(token)
    elif isinstance(vocabulary, list):
        yield from (index for index, piece in enumerate(vocabulary) if isinstance(piece, list) and piece[:1] == [token])
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, dict):
        yield from (
            int(number)
            for number, each in listed.items()
            if isinstance(each, dict) and each.get("content") == token and number.isdecimal()
        )
    for name in ("added_tokens.json", "vocab.json"):
        yield _json(directory / name).get(token)
    yield _in_sentencepiece(directory / "tokenizer.model", token)


def _in_sentencepiece(file: Path, token: str) -> int | None:
    if not file.is_file():
        return None
    try:
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (ImportError, OSError, RuntimeError):
        return None
    found = int(model.piece_to_id(token))
    return found if model.id_to_piece(found) == token else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

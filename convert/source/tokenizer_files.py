"""The files of a Hugging Face tokenizer, which travel with the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

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
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def tokenizer_files(directory: Path) -> list[Path]:
    """The tokenizer's files in `directory`, in the order of their names; none when there is no vocabulary."""
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        return []
    return sorted(path for pattern in TOKENIZER_PATTERNS for path in directory.glob(pattern) if path.is_file())


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files of the directory `source` to `target`, which is made if there are any."""
    for path in tokenizer_files(source):
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)

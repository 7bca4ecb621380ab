"""A model that was opened for conversion: its config, its tensors, its tokenizer, and the files they are in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflight.convert.families.pooling.files import files_of
from inflight.convert.source.location.hub import ModelLocation
from inflight.convert.source.quantized.beside import BESIDE_CONFIG
from inflight.convert.source.tensor import SourceTensor
from inflight.convert.source.tokenizer_end import tokenizer_end_token
from inflight.convert.source.tokenizer_files import copy_tokenizer, tokenizer_files
from inflight.files import sha256_file


@dataclass(frozen=True, slots=True)
class SourceModel:
    """An opened Hugging Face model. `tensors` are those of the model, `weight_files` the files that hold them.
    `stored`: the tensors as the files have them, where the family takes others for modules of its decoder.
    `cache_factors`: (keys, values) by layer, where the source asks for an FP8 KV cache; None: it does not.
    """

    location: ModelLocation
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: Mapping[str, SourceTensor]
    weight_files: frozenset[Path]
    cache_factors: Mapping[int, tuple[float, float]] | None = field(default=None, kw_only=True)
    stored: Mapping[str, SourceTensor] | None = field(default=None, kw_only=True)

    @property
    def directory(self) -> Path:
        return self.location.directory

    @property
    def quantized(self) -> str | None:
        """How many tensors of which types are quantized, in words; None when all are plain."""
        return quantized_in_words(self.tensors.values())

    @property
    def label(self) -> str:
        """A short name for files that are made of it."""
        return self.directory.name

    def files(self) -> list[Path]:
        """Every file that a conversion reads, in the order of their names."""
        jsons = [self.directory / name for name in ("config.json", "generation_config.json", *BESIDE_CONFIG)]
        return sorted(
            {
                *(path for path in jsons if path.is_file()),
                *self.weight_files,
                *tokenizer_files(self.directory),
                *files_of(self.directory),
            }
        )

    def sha256(self, advance: Callable[[int], None] | None = None) -> str:
        """Hex digest of the names and contents of `files()`, wherever the model lies."""
        digest = hashlib.sha256()
        for path in self.files():
            name = path.relative_to(self.directory).as_posix()
            digest.update(f"{name} {sha256_file(path, advance)}\n".encode())
        return digest.hexdigest()

    def end_token(self) -> int | None:
        """The end token that the tokenizer names, where the configs may not."""
        return tokenizer_end_token(self.directory)

    def write_tokenizer(self, target: Path) -> list[str]:
        """Put the tokenizer's files into `target`, which is made if there are any; what a user should know of them.
        Raises ModelError for files that are no tokenizer."""
        copy_tokenizer(self.directory, target)
        return []


def quantized_in_words(tensors: Iterable[SourceTensor]) -> str | None:
    """How many of these tensors are quantized, and of which types; None when all are plain."""
    counts = Counter(tensor.stored_type for tensor in tensors if tensor.stored_type != tensor.dtype)
    listed = ", ".join(f"{count} {stored}" for stored, count in counts.most_common())
    number = sum(counts.values())
    return f"{number} quantized tensor{'s'[: number > 1]} ({listed})" if counts else None

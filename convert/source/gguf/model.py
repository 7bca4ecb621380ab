"""Opening a GGUF file as the Hugging Face model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inflight.convert.source.gguf.config import find_architecture, hugging_face_config
from inflight.convert.source.gguf.names import ROPE_FACTORS, Architecture, hugging_face_names
from inflight.convert.source.gguf.parts import read_gguf_parts
from inflight.convert.source.gguf.tensors import GgufTensor, HeadRows, Offset, gguf_tensors
from inflight.convert.source.gguf.tokenizer import write_gguf_tokenizer
from inflight.convert.source.location.hub import ModelLocation
from inflight.convert.source.opened import SourceModel
from inflight.convert.source.tensor import Seen, SourceTensor
from inflight.extras import install_hint, needs


@dataclass(frozen=True, slots=True)
class GgufModel(SourceModel):
    """One file holds everything, or several parts of one; `metadata` is that of the (first) header."""

    metadata: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.location.name

    def files(self) -> list[Path]:
        return sorted(self.weight_files)

    def end_token(self) -> int | None:
        """None: the config has the end tokens of the metadata."""
        return None

    def write_tokenizer(self, target: Path) -> list[str]:
        assert self.location.file is not None
        note = write_gguf_tokenizer(self.location.file, self.metadata, target)
        return [] if note is None else [note]


def read_gguf_config(location: ModelLocation) -> dict[str, Any]:
    """The config.json that the model had. Raises ModelError as `open_gguf` does."""
    return open_gguf(location).config


def open_gguf(location: ModelLocation) -> GgufModel:
    """Open the GGUF file of `location`. Raises ModelError naming what is damaged, missing or not supported,
    MissingModuleError without the gguf package."""
    assert location.file is not None
    headers = read_gguf_parts(location.file)
    first = headers[0]
    architecture = find_architecture(str(first.file), first.metadata)
    with needs(f"A GGUF file ({location.file})", install_hint("gguf")):
        tensors = {name: tensor for header in headers for name, tensor in gguf_tensors(header).items()}
    config = hugging_face_config(str(first.file), first.metadata, architecture, tensors)
    files = frozenset(header.file for header in headers)
    named = _named(tensors, architecture, config)
    return GgufModel(replace(location, file=first.file), config, {}, named, files, first.metadata)


def _named(
    tensors: Mapping[str, GgufTensor], architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, SourceTensor]:
    """The tensors under their Hugging Face names, as transformers has them. What has no such name keeps its own: the
    plan lists it as unknown."""
    layers, head_size = config["num_hidden_layers"], config["head_dim"]
    modules = dict(hugging_face_names(architecture.family, min(layers, len(tensors)))) if _count(layers) else {}
    result: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        if name in ROPE_FACTORS:
            continue
        module, _, kind = name.rpartition(".")
        ours = f"{modules[module]}.{kind}" if module in modules else name
        if architecture.interleaved and module.endswith((".attn_q", ".attn_k")) and _count(head_size):
            result[ours] = HeadRows(ours, tensor, head_size)
        elif architecture.family.norm_offset and kind == "weight" and module.endswith("norm"):
            result[ours] = Offset(ours, tensor)
        else:
            result[ours] = Seen(ours, tensor)
    return result


def _count(value: Any) -> bool:
    return isinstance(value, int) and value > 0

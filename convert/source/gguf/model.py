"""Opening a GGUF file as the Hugging Face model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inflight.convert.families.arranged import arranged
from inflight.convert.source.gguf.config import find_architecture, hugging_face_config
from inflight.convert.source.gguf.experts import key_value_products, split_experts
from inflight.convert.source.gguf.names import ROPE_FACTORS, Architecture, hugging_face_names
from inflight.convert.source.gguf.parts import read_gguf_parts
from inflight.convert.source.gguf.restacked import restacked
from inflight.convert.source.gguf.tensors import GgufTensor, HeadRows, Offset, OneRow, gguf_tensors
from inflight.convert.source.gguf.tokenizer import write_gguf_tokenizer
from inflight.convert.source.location.hub import ModelLocation
from inflight.convert.source.opened import SourceModel, quantized_in_words
from inflight.convert.source.tensor import Seen, SourceTensor
from inflight.extras import install_hint, needs


@dataclass(frozen=True, slots=True)
class GgufModel(SourceModel):
    """One file holds everything, or several parts of one; `metadata` is that of the (first) header, `held` are the
    tensors by their names there.
    """

    metadata: Mapping[str, Any]
    held: Mapping[str, SourceTensor]

    @property
    def quantized(self) -> str | None:
        return quantized_in_words(self.held.values())

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
    # Latent attention turns neighbours in the file as in the family's own.
    ours = arranged(config, named) if architecture.family.latent else named
    stored = restacked(architecture.family.mixture, named)
    whole = replace(location, file=first.file)
    return GgufModel(whole, config, {}, ours, files, first.metadata, tensors, stored=stored)


def _named(
    tensors: dict[str, GgufTensor], architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, SourceTensor]:
    """The tensors under their Hugging Face names, as transformers has them, those of experts each on its own. What has
    no such name keeps its own: the plan lists it as unknown."""
    layers, family = config["num_hidden_layers"], architecture.family
    modules = dict(hugging_face_names(architecture, min(layers, len(tensors)))) if _count(layers) else {}
    result: dict[str, SourceTensor] = {}
    whole = dict(tensors)
    for names, product in key_value_products(tensors, modules) if family.latent else ():
        result[product.name] = product
        for name in names:
            del whole[name]
    for name, parts in split_experts(whole).items():
        if name in ROPE_FACTORS:
            continue
        module, _, kind = name.rpartition(".")
        ours = modules.get(name) or (f"{modules[module]}.{kind}" if module in modules else name)
        if "{expert}" in ours:
            found = {
                each: Seen(each, part) for expert, part in enumerate(parts) if (each := ours.format(expert=expert))
            }
            result.update(found)
        else:
            result[ours] = _as_transformers_has_it(ours, module, parts[0], architecture, config["head_dim"])
    return result


def _as_transformers_has_it(
    name: str, module: str, tensor: GgufTensor, architecture: Architecture, head_size: Any
) -> SourceTensor:
    if architecture.interleaved and module.endswith((".attn_q", ".attn_k")) and _count(head_size):
        return HeadRows(name, tensor, head_size)
    if architecture.family.norm_offset and name.endswith(".weight") and module.endswith("norm"):
        return Offset(name, tensor)
    if module.endswith(".ffn_gate_inp_shexp") and len(tensor.shape) == 1:
        return OneRow(name, tensor)
    return Seen(name, tensor)


def _count(value: Any) -> bool:
    return isinstance(value, int) and value > 0

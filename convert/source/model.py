"""Opens a model on disk: its JSON files and the table of its tensors, or a GGUF file. No weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inflight.convert.families.arranged import arranged
from inflight.convert.families.pooling.dense import dense_tensors
from inflight.convert.families.pooling.files import PATTERNS, pooled_files
from inflight.convert.families.pooling.kinds import FILES_KEY, KEYS_OF_FILES, TOKEN_TEXTS_KEY, TOKENS_KEY
from inflight.convert.families.pooling.logit_score import token_ids, with_score_row
from inflight.convert.families.table import find_family
from inflight.convert.source.gguf.model import open_gguf, read_gguf_config
from inflight.convert.source.location.hub import ModelLocation, locate
from inflight.convert.source.location.other_kinds import (
    MARKS,
    refuse_adapter,
    refuse_engine_of_tensorrt_llm,
    refuse_other_kind,
)
from inflight.convert.source.opened import SourceModel
from inflight.convert.source.quantized.beside import BESIDE_CONFIG, with_quantization
from inflight.convert.source.quantized.cache_scales import cache_scales
from inflight.convert.source.quantized.methods import model_tensors, quantization_config
from inflight.convert.source.tokenizer_files import TOKENIZER_PATTERNS, ids_of_tokens, texts_of_tokens
from inflight.errors import ModelError
from inflight.files.json_file import read_json_object
from inflight.files.tensor_file import TensorEntry, TensorFileError, read_header

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG_PATTERNS = (
    "config.json",
    "generation_config.json",
    *BESIDE_CONFIG,
    _INDEX,
    *MARKS,
    *TOKENIZER_PATTERNS,
    *PATTERNS,
)
WEIGHT_PATTERNS = ("model*.safetensors", "*_Dense/model.safetensors", "*.bin.index.json")
_TO_SAFETENSORS = (
    "Only safetensors are read. Where torch is installed, rewrite the model once:\n"
    '  python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('{0}', dtype='auto').save_pretrained('{0}-safetensors')\""
)

_GGUF = "Give the model that the file was made of: a directory or a hub id."


def read_config(model: str | Path, revision: str | None) -> tuple[ModelLocation, dict[str, Any]]:
    """The location and config.json of a model; of a hub model, or one on an object store, nothing large is
    downloaded yet. Raises ModelError."""
    location = locate(model, revision, CONFIG_PATTERNS)
    if location.file is not None:
        return location, read_gguf_config(location)
    if not (location.directory / "config.json").is_file():
        refuse_other_kind(location.directory, str(location))
        raise ModelError(
            f"{location} has no config.json.", "Give the directory of a Hugging Face model, or a GGUF file."
        )
    config = read_json_object(location.directory / "config.json", ModelError)
    refuse_engine_of_tensorrt_llm(config, str(location))
    config = {key: value for key, value in config.items() if key not in KEYS_OF_FILES}
    config = with_quantization(location.directory, config)
    return location, {**config, **pooled_files(location.directory, config)}


def open_source(model: str | Path, revision: str | None, score_tokens: Sequence[str] = ()) -> SourceModel:
    """Open a model for conversion, its weights downloaded if it is on the hub or a store. `score_tokens`: it scores
    pairs by the logits of these tokens, that of a relevant pair first. Raises ModelError."""
    location, config = read_config(model, revision)
    if location.file is not None:
        if score_tokens:
            raise ModelError(f"{location} is a GGUF file, which is not read as a model that scores by tokens.", _GGUF)
        return open_gguf(location)
    if location.fetched_by is not None:
        location = locate(location.fetched_by, location.revision, (*CONFIG_PATTERNS, *WEIGHT_PATTERNS))
    if score_tokens:
        config = {**config, TOKENS_KEY: ids_of_tokens(location.directory, score_tokens)}
        config |= pooled_files(location.directory, config)
    if ids := token_ids(config, []):
        config = {**config, TOKEN_TEXTS_KEY: list(score_tokens) or texts_of_tokens(location.directory, ids)}
    generation = location.directory / "generation_config.json"
    entries = _read_tensors(location.directory)
    if FILES_KEY in config:
        entries |= dense_tensors(location.directory, config[FILES_KEY])
    stored = model_tensors(str(location), config, entries)
    return SourceModel(
        location,
        config,
        read_json_object(generation, ModelError) if generation.is_file() else {},
        with_score_row(str(location), config, find_family(config), arranged(config, stored)),
        frozenset(entry.file for entry in entries.values()),
        stored=stored,
        cache_factors=cache_scales(str(location), quantization_config(config), entries),
    )


def _read_tensors(directory: Path) -> dict[str, TensorEntry]:
    if (directory / _INDEX).is_file():
        return _read_sharded(directory)
    if (directory / _SINGLE).is_file():
        return _headers([directory / _SINGLE])
    if (directory / "rank0.safetensors").is_file():
        raise ModelError(
            f"{directory} is a checkpoint already.",
            f"Build it: inflight build-engine --checkpoint-dir {directory}; or convert the model it was made from.",
        )
    if any(directory.glob("pytorch_model*.bin")):
        raise ModelError(f"{directory} has its weights in pytorch_model.bin.", _TO_SAFETENSORS.format(directory))
    refuse_adapter(directory, str(directory))
    found = sorted(path.name for pattern in ("*.safetensors", "*.gguf") for path in directory.glob(pattern))
    others = ", ".join(found[:5])
    raise ModelError(
        f"{directory} has neither {_SINGLE} nor {_INDEX}" + (f" (it has {others})." if others else "."),
        "Give the directory that `save_pretrained` or a hub download wrote, or the path of a GGUF file.",
    )


def _read_sharded(directory: Path) -> dict[str, TensorEntry]:
    weight_map = read_json_object(directory / _INDEX, ModelError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"{directory / _INDEX} has no weight_map from tensors to files.")
    files = sorted(set(weight_map.values()))
    # Links are followed: the hub's own cache is made of them.
    if outside := [name for name in files if name in ("", "..") or Path(name).name != name]:
        raise ModelError(
            f"{directory / _INDEX} names files that are not in its directory: {', '.join(outside[:20])}.",
            "The names of its weight_map must be those of files beside it.",
        )
    there = {path.name for path in directory.iterdir()}
    absent = [name for name in files if name not in there]
    if absent:
        raise ModelError(
            f"{directory} lacks {len(absent)} of the {len(files)} files of its index: {', '.join(absent)}.",
            "Download the model again.",
        )
    tensors = _headers([directory / name for name in files])
    wrong = [name for name, file in weight_map.items() if name not in tensors or tensors[name].file.name != file]
    if wrong:
        raise ModelError(f"{_INDEX} places tensors where they are not: {', '.join(wrong[:20])}.")
    return tensors


def _headers(paths: list[Path]) -> dict[str, TensorEntry]:
    tensors: dict[str, TensorEntry] = {}
    for path in paths:
        try:
            header = read_header(path)
        except TensorFileError as error:
            raise ModelError(error.message, error.hint) from error
        twice = sorted(header.keys() & tensors.keys())
        if twice:
            raise ModelError(f"{path} repeats tensors of another file: {', '.join(twice[:20])}.")
        tensors.update(header)
    return tensors

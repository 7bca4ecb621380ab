"""Reading a checkpoint directory: its config, its tensor tables, and its tensors as memory-mapped arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from inflight.accuracy.record import ACCURACY_NAME, FoundRecord, Subject, find_accuracy
from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.derive import model_spec
from inflight.convert.checkpoint.expert_stacks import QuantizedStack, Stack
from inflight.convert.checkpoint.inventory import stored_optionals
from inflight.convert.checkpoint.layout import TensorSpec, module_path, quantization_of, stage_tensors
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.convert.checkpoint.sharding import shard, split_problems
from inflight.convert.checkpoint.support import unsupported, unsupported_keys
from inflight.convert.quantization.modules import MIXED_PRECISION
from inflight.convert.quantization.round_to_nearest import dequantize, unpack_pairs
from inflight.convert.quantization.scheme import LAID_OUT_FOR_A_GPU, StoredTensor, WeightQuantization
from inflight.convert.quantization.schemes import INPUT_FACTORS
from inflight.errors import CheckpointError
from inflight.files import sha256_file
from inflight.files.json_file import read_json_object
from inflight.files.tensor_file import TensorEntry, TensorFileError, map_array, read_header

CONFIG_NAME, LAYERS_NAME = "config.json", "quant_cfg.json"
TOKENIZER_DIRECTORY = "tokenizer"
_MAKE_ONE = "`inflight convert` makes a checkpoint out of a Hugging Face model."


def rank_file_name(rank: int) -> str:
    return f"rank{rank}.safetensors"


class Checkpoint:
    """An opened checkpoint, checked against its config: every tensor there, in the shape and type it should have.

    `spec` is what the config means, and what the tensors add to it.

    `ranks[r]` maps tensor names to their places in rank{r}.safetensors (rank = pp_rank * tp_size + tp_rank). No weight
    is read before `array` is used.
    """

    def __init__(
        self, directory: Path, config: CheckpointConfig, spec: ModelSpec, ranks: tuple[Mapping[str, TensorEntry], ...]
    ) -> None:
        self.directory = directory
        self.config = config
        self.spec = spec
        self.ranks = ranks

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Open and check a checkpoint. Raises CheckpointError naming every tensor or config key that is wrong."""
        config = read_config(directory)
        try:
            ranks = tuple(read_header(path) for path in _rank_files(directory, config))
        except TensorFileError as error:
            raise CheckpointError(error.message, error.hint) from error
        names = {name for table in ranks for name in table}
        ours = config.inflight is not None and bool(config.inflight.quantization_records)
        if not ours and not any(name.endswith(INPUT_FACTORS) for name in names):
            # ModelOpt says that there are factors wherever weights have groups.
            config = config.model_copy(update={"without_factors": True})
        spec = model_spec(config, stored_optionals(config, names))
        problems = [text for rank, table in enumerate(ranks) for text in _table_problems(config, spec, rank, table)]
        if problems:
            listed = "\n".join(dict.fromkeys(problems))
            raise CheckpointError(f"{directory} does not hold what its config.json says:\n{listed}")
        return cls(directory, config, spec, ranks)

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """The table of rank 0: the whole model when world_size is 1."""
        return self.ranks[0]

    def scales_of(self, weight: str, rank: int = 0) -> TensorEntry | None:
        """The scales of the weight of this name; None when it is plain."""
        module = module_path(weight)
        quantization = self.quantization_of(module)
        return None if quantization is None else self.ranks[rank].get(quantization.scale_name(module))

    def logical_tensors(self, rank: int = 0) -> dict[str, TensorEntry]:
        """The table of a rank as its modules see it: 4-bit levels are (out, in), half a byte an element."""
        seen = dict(self.ranks[rank])
        for name, entry in self.ranks[rank].items():
            quantization, scales = self.quantization_of(module_path(name)), self.scales_of(name, rank)
            if quantization is not None and quantization.bits == 4 and scales is not None:
                shape = (*scales.shape[: len(entry.shape) - 1], entry.shape[-1])
                seen[name] = replace(entry, dtype=quantization.scheme.weights.dtype, shape=shape)
        return seen

    @property
    def ties_embeddings(self) -> bool:
        """True when the embedding also serves as the vocabulary projection (no lm_head.weight is stored)."""
        return not self.spec.lm_head and self.spec.pooled is None

    @property
    def tokenizer_directory(self) -> Path | None:
        path = self.directory / TOKENIZER_DIRECTORY
        return path if path.is_dir() else None

    def rank_file(self, rank: int = 0) -> Path:
        return self.directory / rank_file_name(rank)

    def array(self, name: str, rank: int = 0) -> npt.NDArray[Any]:
        """A tensor as a read-only memory-mapped array in its stored type. Raises CheckpointError if there is none."""
        if name not in self.ranks[rank]:
            raise CheckpointError(f"{self.rank_file(rank)} has no tensor {name}.")
        return map_array(self.ranks[rank][name])

    def quantization_of(self, module: str) -> WeightQuantization | None:
        """How the matrix of this module is stored; None for a plain one."""
        return self.config.quantization_of(module)

    def matrix(self, module: str, rank: int = 0) -> npt.NDArray[Any]:
        """The weight (out, in) of a module: mapped in its stored type, or float32 made of its levels and scales, in the
        order of the inputs. It multiplies rows times `input_factors`.

        Raises CheckpointError if there is none.
        """
        stored, quantization = self.array(f"{module}.weight", rank), self.quantization_of(module)
        if quantization is None:
            return stored
        scales = self.array(quantization.scale_name(module), rank)
        coded = quantization.codebook
        levels = unpack_pairs(stored, len(scales), signed=coded is None) if quantization.bits == 4 else stored
        zero = quantization.zero_name(module)
        zeros = None if zero is None else self.array(zero, rank)
        numbers = dequantize(levels, scales, quantization.group_size, zeros, coded)
        order = quantization.order_name(module)
        return numbers if order is None else numbers[:, np.argsort(self.array(order, rank))]

    def stack(self, module: str, rank: int = 0) -> Stack:
        """The matrices (out, in) of all experts of a module, by their numbers: mapped, or float32 made when asked for.

        Raises CheckpointError if there are none.
        """
        stored, quantization = self.array(f"{module}.weight", rank), self.quantization_of(module)
        if quantization is None:
            return stored
        zero = quantization.zero_name(module)
        scales = self.array(quantization.scale_name(module), rank)
        return QuantizedStack(stored, scales, None if zero is None else self.array(zero, rank), quantization)

    def input_factors(self, module: str, rank: int = 0) -> npt.NDArray[Any] | None:
        """What the values of a module's rows are multiplied by first, (in,) of the checkpoint's type; None: nothing."""
        quantization = self.quantization_of(module)
        name = None if quantization is None else quantization.factors_name(module)
        return None if name is None else self.array(name, rank)

    def sha256(self) -> str:
        """Hex digest of the names and contents of all files of the checkpoint, wherever it lies. The record of what
        was measured on it is no part of it: that names this digest."""
        return self._sha256

    def subject(self, kv_cache_dtype: str | None = None) -> Subject:
        """What an accuracy record of these weights, measured with a KV cache of that type, is bound to."""
        return Subject(checkpoint_sha256=self.sha256(), kv_cache_dtype=kv_cache_dtype)

    def accuracy(self, kv_cache_dtype: str | None = None) -> FoundRecord:
        """What the weights were found to keep of their model, with a KV cache of that type; None: of any. A record of
        one engine is none here: it says nothing of another."""
        if not (self.directory / ACCURACY_NAME).exists():
            return FoundRecord()  # without reading the weights for their digest
        return find_accuracy(self.directory, self.subject(kv_cache_dtype))

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        record = self.directory / ACCURACY_NAME
        for path in sorted(path for path in self.directory.rglob("*") if path.is_file() and path != record):
            digest.update(f"{path.relative_to(self.directory).as_posix()} {sha256_file(path)}\n".encode())
        return digest.hexdigest()


def read_config(directory: Path) -> CheckpointConfig:
    """Read and check config.json alone. Raises CheckpointError naming the file and every key at fault."""
    path = directory / CONFIG_NAME
    if not path.exists():
        lacks = f"has no {CONFIG_NAME}" if directory.is_dir() else "is no directory"
        raise CheckpointError(f"{directory} {lacks}.", _MAKE_ONE)
    raw = read_json_object(path, CheckpointError)
    if "architecture" not in raw and "architectures" in raw:
        raise CheckpointError(f"{directory} holds a Hugging Face model, not a checkpoint.", _MAKE_ONE)
    _add_layers(raw, directory / LAYERS_NAME)
    try:
        config = CheckpointConfig.model_validate(raw)
    except ValidationError as error:
        details = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"{path} is not a valid checkpoint config:\n{details}") from error
    reasons = unsupported(config) + unsupported_keys(raw) + split_problems(config)
    if reasons:
        raise CheckpointError(f"{path} asks for what is not supported:\n" + "\n".join(f"  {r}" for r in reasons))
    return config


def _add_layers(raw: dict[str, Any], path: Path) -> None:
    """What quant_cfg.json says, under MIXED_PRECISION, as a key of the config."""
    block = raw.get("quantization")
    raw.pop("quantized_layers", None)
    if not isinstance(block, dict) or block.get("quant_algo") != MIXED_PRECISION:
        return
    if not path.exists():
        raise CheckpointError(f"{path.parent} has no {path.name}, which {MIXED_PRECISION} asks for.", _MAKE_ONE)
    layers = read_json_object(path, CheckpointError)
    raw["quantized_layers"] = layers.get("quantized_layers", {})
    block.setdefault("kv_cache_quant_algo", None)
    block["kv_cache_quant_algo"] = block["kv_cache_quant_algo"] or layers.get("kv_cache_quant_algo")


def _rank_files(directory: Path, config: CheckpointConfig) -> list[Path]:
    paths = [directory / rank_file_name(rank) for rank in range(config.mapping.num_rank_files)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"{directory} lacks {', '.join(missing)} (world_size {config.mapping.world_size}).")
    return paths


def _table_problems(
    config: CheckpointConfig, spec: ModelSpec, rank: int, table: Mapping[str, TensorEntry]
) -> list[str]:
    """Tensors beyond the expected ones are allowed, as the format's own loader allows them; and so is the checkpoint's
    type for a tensor that is written wide here.
    """
    stage, tp_rank = divmod(rank, config.mapping.tp_size)
    problems = []
    for tensor in stage_tensors(config, spec, stage):
        quantization = quantization_of(tensor, config)
        told = quantization is not None and quantization.told_by_scales
        if quantization is not None and told and quantization.scale_name(module_path(tensor.name)) not in table:
            problems.append(f"  quant_algo {quantization.scheme.algorithm!r} with {LAID_OUT_FOR_A_GPU}")
            continue
        for stored in _stored_tensors(config, tensor, tp_rank):
            entry, label = table.get(stored.name), f"  {rank_file_name(rank)}: tensor {stored.name}"
            if entry is None:
                problems.append(f"{label} is missing")
            elif entry.shape != stored.shape:
                problems.append(f"{label} has shape {entry.shape}, expected {stored.shape}")
            elif entry.dtype != stored.dtype and not (tensor.wide and entry.dtype == config.dtype):
                problems.append(f"{label} is {entry.dtype}, expected {stored.dtype}")
    return problems


def _stored_tensors(config: CheckpointConfig, spec: TensorSpec, tp_rank: int) -> tuple[StoredTensor, ...]:
    shape, quantization = shard(spec, config, tp_rank).shape, quantization_of(spec, config)
    if quantization is None:
        return (StoredTensor(spec.name, shape, spec.dtype(config)),)
    return quantization.stored(module_path(spec.name), shape, config.dtype)

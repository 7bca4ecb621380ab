"""The plan of a conversion, made from the config and the tensor table alone.

Everything that prevents it is collected and raised as one ModelError before a weight is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from inflight import __version__
from inflight.convert.accounting import TensorAccount
from inflight.convert.checkpoint.config import CheckpointConfig, ParallelMapping
from inflight.convert.checkpoint.derive import model_spec
from inflight.convert.checkpoint.layout import (
    TABLES,
    TensorSpec,
    is_product,
    module_path,
    quantization_of,
    stage_tensors,
)
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.convert.checkpoint.sharding import group_problems, shard, split_problems, stack_problems
from inflight.convert.checkpoint.support import unsupported
from inflight.convert.families.expert_stacks import expert_matrices
from inflight.convert.families.table import require_family
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.kept import kept_forms, kept_quantization
from inflight.convert.quantization.modules import ModuleQuantization
from inflight.convert.quantization.recipes import Chosen, choose_schemes, module_quantization, torn_pairs, torn_stacks
from inflight.convert.quantization.scheme import StoredTensor, WeightQuantization
from inflight.convert.source.hf_config import ConfigReading, read_model_config
from inflight.convert.source.quantized.methods import unannounced
from inflight.convert.source.tensor import SourceTensor
from inflight.errors import ModelError
from inflight.files.tensor_file import tensor_bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a source tensor, cut to `columns` (None: a vector, or all of them)."""

    source: SourceTensor
    rows: range
    columns: range | None


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of a rank file: pieces stacked along dimension 0, then `padding` rows of zeros.

    `quantization`: it is stored as integers and scales; None: in the checkpoint's type, or as float32 if `wide`.
    `offset` is added to every value. `plain`: nothing quantizes it.
    """

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    padding: int
    quantization: WeightQuantization | None = None
    wide: bool = False
    offset: float = 0.0
    plain: bool = False

    def stored(self, dtype: str) -> tuple[StoredTensor, ...]:
        """The tensors that the file gets, in a checkpoint of type `dtype`."""
        if self.quantization is None:
            return (StoredTensor(self.name, self.shape, "float32" if self.wide else dtype),)
        return self.quantization.written(module_path(self.name), self.shape, dtype)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """The config (source and generation of its "inflight" block still to come), the model's mathematics, and the
    tensors of every rank file.
    """

    config: CheckpointConfig
    spec: ModelSpec
    ranks: tuple[tuple[PlannedTensor, ...], ...]

    @property
    def nbytes(self) -> int:
        tensors = (stored for rank in self.ranks for tensor in rank for stored in tensor.stored(self.config.dtype))
        return sum(tensor_bytes(stored.shape, stored.dtype) for stored in tensors)

    @property
    def kept(self) -> dict[str, SourceTensor]:
        """The source's tensors whose levels are kept, by name."""
        quantization = self.config.module_quantization
        if not quantization.kept_from_source:
            return {}
        tensors = (tensor for rank in self.ranks for tensor in rank if tensor.quantization is not None)
        return {piece.source.name: piece.source for tensor in tensors for piece in tensor.pieces}

    @property
    def dequantized(self) -> dict[str, SourceTensor]:
        """The source's quantized tensors whose numbers are read as floating-point ones, by name."""
        keeps = bool(self.kept)
        plain = (tensor for rank in self.ranks for tensor in rank if tensor.quantization is None or not keeps)
        sources = {piece.source.name: piece.source for tensor in plain for piece in tensor.pieces}
        return {name: source for name, source in sources.items() if source.stored_type != source.dtype}


def check_config(model: str, raw: Mapping[str, Any]) -> None:
    """Raise ModelError listing everything unsupported in a config, before there are tensors to hold against it."""
    _refuse(model, read_model_config(raw, require_family(model, raw)).problems)


def make_plan(
    model: str,
    raw: Mapping[str, Any],
    tensors: Mapping[str, SourceTensor],
    options: ConvertOptions,
    *,
    never_tied: bool = False,
) -> ConversionPlan:
    """Plan the conversion of a model with this config and these tensors.

    `never_tied` overrules tie_word_embeddings: the source has a vocabulary projection of its own.
    Raises ModelError listing every missing, unknown or misshapen tensor and every unsupported value of the config.
    """
    family = require_family(model, raw)
    tensors = expert_matrices(family.mixture, tensors, raw.get("num_hidden_layers"))
    reading = read_model_config(raw, family)
    problems = list(reading.problems)
    tied = not (reading.optional.lm_head or never_tied)
    account = TensorAccount(family, tensors, tied)
    config = _checkpoint_config(reading, options, tied)
    chosen: Chosen = {}
    ranks: Iterator[tuple[PlannedTensor, ...]] = iter(())
    if reading.shapes_known:
        modules, plain, stacks = _matrices(config, reading)
        chosen = choose_schemes(options, modules, stacks)
        everything: Chosen = {**chosen, **dict.fromkeys(plain)}
        quantization = (
            _kept(account, config, reading, options) if options.keeps else module_quantization(options, everything)
        )
        config = _quantized(config, quantization)
        problems += torn_pairs(chosen) or torn_stacks(chosen, stacks) or unsupported(config)
        problems += split_problems(config)
        specs = _stage_specs(config, reading, tied)
        every = [spec for stage in specs for spec in stage]
        problems += group_problems(config, every) + stack_problems(config, every)
        unfit = account.problems(every)
        problems += (unannounced(raw, tensors) if unfit else []) + unfit + _unmatched(options, chosen, plain)
        config = config.model_copy(update={"dtype": _choose_dtype(options, reading, account, every, problems)})
        ranks = _plan_ranks(account, tensors, config, specs)
    _refuse(model, problems)
    return ConversionPlan(config, model_spec(config, replace(reading.optional, lm_head=not tied)), tuple(ranks))


def _stage_specs(config: CheckpointConfig, reading: ConfigReading, tied: bool) -> list[list[TensorSpec]]:
    """The tensors of each pipeline stage. Where the embedding of a tied model is not whole on the last rank, or stays
    plain beside a quantized projection, the projection is written out.
    """
    own_projection = config.mapping.world_size > 1 or config.quantization_of("lm_head") is not None
    spec = model_spec(config, replace(reading.optional, lm_head=not tied or own_projection))
    return [list(stage_tensors(config, spec, stage)) for stage in range(config.mapping.pp_size)]


def _matrices(config: CheckpointConfig, reading: ConfigReading) -> tuple[list[str], list[str], list[str]]:
    """Paths of the modules that may be quantized: every product, the projection of a tied model among them; of those
    that stay plain, as routers do; and which of the first are stacks of experts.
    """
    specs = _matrix_specs(config, reading)
    plain = [module for module, listed in specs.items() if listed[0].plain]
    stacks = [module for module, listed in specs.items() if listed[0].experts is not None and not listed[0].plain]
    return [module for module in specs if module not in plain], plain, stacks


def _matrix_specs(config: CheckpointConfig, reading: ConfigReading) -> dict[str, list[TensorSpec]]:
    """The matrices that may be quantized by their module paths, of which pipeline stages share some."""
    spec = model_spec(config, replace(reading.optional, lm_head=True))
    found: dict[str, list[TensorSpec]] = {}
    for stage in range(config.mapping.pp_size):
        for each in stage_tensors(config, spec, stage):
            if is_product(each):
                found.setdefault(module_path(each.name), []).append(each)
    return found


def _kept(
    account: TensorAccount, config: CheckpointConfig, reading: ConfigReading, options: ConvertOptions
) -> ModuleQuantization:
    """What is quantized where the source's own levels are kept."""
    specs = _matrix_specs(config, reading)
    specs = {module: listed for module, listed in specs.items() if not listed[0].plain}
    found = {module: [account.tensors_of(spec) for spec in listed] for module, listed in specs.items()}
    sources = {module: [*chain.from_iterable(parts)] for module, parts in found.items() if all(parts)}
    widths = {module: listed[0].columns or 0 for module, listed in specs.items()}
    stacks = {module for module, listed in specs.items() if listed[0].experts is not None}
    dtype = reading.dtype if options.dtype == "auto" else options.dtype
    return kept_quantization(kept_forms(sources, stacks, dtype), widths)


def _quantized(config: CheckpointConfig, quantization: ModuleQuantization) -> CheckpointConfig:
    """The config with what is quantized, and the record of it."""
    assert config.inflight is not None, "the reading has what concerns the layers"
    main = next((record for record in quantization.records if not record.modules), None)
    others = tuple(record for record in quantization.records if record.modules)
    facts = config.inflight.model_copy(update={"quantization": main, "module_quantization": others})
    update = {"quantization": quantization.facts, "quantized_layers": dict(quantization.layers), "inflight": facts}
    return config.model_copy(update=update)


def _unmatched(options: ConvertOptions, modules: Iterable[str], plain: Sequence[str]) -> list[str]:
    """The patterns that name no matrix of the model: what is mistyped would be quantized in another way than meant.
    `plain` are modules that may be excluded and nothing else.
    """
    given = [("--exclude-modules", pattern) for pattern in options.exclude_modules]
    given += [("--quantize-module", pattern) for pattern, _ in options.module_schemes]
    tables = (f"transformer.{table}" for table in TABLES)
    named, example = {*modules, *tables}, min(module for module in modules if module != "lm_head")
    lines = []
    for flag, pattern in given:
        router = next((module for module in plain if fnmatchcase(module, pattern)), None)
        if any(fnmatchcase(module, pattern) for module in named) or (router and flag == "--exclude-modules"):
            continue
        if router is None:
            lines.append(f"{flag} {pattern!r} matches no module; modules are named as {example!r}")
        else:
            lines.append(f"{flag} {pattern!r} names {router}: routers are not quantized")
    return lines


def _refuse(model: str, problems: Sequence[str]) -> None:
    if problems:
        raise ModelError(f"{model} cannot be converted:\n" + "\n".join(f"  {line}" for line in problems))


def _checkpoint_config(reading: ConfigReading, options: ConvertOptions, tied: bool) -> CheckpointConfig:
    tp_size, pp_size = options.tp_size, options.pp_size
    mapping = ParallelMapping(
        world_size=tp_size * pp_size, tp_size=tp_size, pp_size=pp_size, moe_tp_size=tp_size, moe_ep_size=1
    )
    return reading.config.model_copy(
        update={
            "producer": {"name": "inflight", "version": __version__},
            "use_parallel_embedding": options.use_parallel_embedding,
            "embedding_sharding_dim": options.embedding_sharding_dim,
            "tie_word_embeddings": tied,
            "mapping": mapping,
        }
    )


def _choose_dtype(
    options: ConvertOptions,
    reading: ConfigReading,
    account: TensorAccount,
    specs: list[TensorSpec],
    problems: list[str],
) -> str:
    """The type to write: the user's, the config's, or the one that all source tensors share."""
    if options.dtype != "auto":
        return options.dtype
    if reading.dtype is not None:
        return reading.dtype
    dtypes = sorted(account.dtypes(specs))
    if len(dtypes) != 1:
        problems.append(f"config.json names no dtype and the tensors differ ({', '.join(dtypes)}): pass --dtype")
        return "float32"
    return dtypes[0]


def _plan_ranks(
    account: TensorAccount,
    tensors: Mapping[str, SourceTensor],
    config: CheckpointConfig,
    specs: list[list[TensorSpec]],
) -> Iterator[tuple[PlannedTensor, ...]]:
    for stage in specs:
        for tp_rank in range(config.mapping.tp_size):
            yield tuple(_plan_tensor(account, tensors, config, spec, tp_rank) for spec in stage)


def _plan_tensor(
    account: TensorAccount,
    tensors: Mapping[str, SourceTensor],
    config: CheckpointConfig,
    spec: TensorSpec,
    tp_rank: int,
) -> PlannedTensor:
    part = shard(spec, config, tp_rank)
    names = account.sources(spec)
    pieces = tuple(Piece(tensors[names[block.part]], block.rows, block.columns) for block in part.blocks)
    quantization = quantization_of(spec, config)
    offset = account.offset(spec)
    return PlannedTensor(spec.name, part.shape, pieces, part.padding, quantization, spec.wide, offset, spec.plain)

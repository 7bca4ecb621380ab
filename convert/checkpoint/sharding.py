"""Which rows and columns of each tensor a tensor-parallel rank holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.layout import TensorSpec, quantization_of


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one part of a TensorSpec, cut to `columns` (None: a vector, or all columns)."""

    part: int
    rows: range
    columns: range | None


@dataclass(frozen=True, slots=True)
class Shard:
    """A rank's tensor: blocks stacked along dimension 0, then `padding` rows of zeros."""

    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    padding: int = 0


def shard(spec: TensorSpec, config: CheckpointConfig, tp_rank: int) -> Shard:
    """The part of `spec` that tensor-parallel rank `tp_rank` holds. The sizes must divide: see `split_problems`."""
    tp_size = config.mapping.tp_size
    if spec.split == "heads":
        rows = [_head_rows(size // config.head_size, config.head_size, tp_size, tp_rank) for size in spec.parts]
        return _stack(spec, tuple(Block(part, span, None) for part, span in enumerate(rows)))
    if spec.split == "rows":
        return _stack(
            spec, tuple(Block(part, _even(size, tp_size, tp_rank), None) for part, size in enumerate(spec.parts))
        )
    if spec.split == "columns" and spec.columns is not None:
        columns = _even(spec.columns, tp_size, tp_rank) if tp_size > 1 else None
        return _stack(spec, tuple(Block(part, range(size), columns) for part, size in enumerate(spec.parts)))
    if spec.split == "vocab":
        size = -(-spec.parts[0] // tp_size)
        span = range(min(tp_rank * size, spec.parts[0]), min((tp_rank + 1) * size, spec.parts[0]))
        return _stack(spec, (Block(0, span, None),), padding=size - len(span))
    return _stack(spec, tuple(Block(part, range(size), None) for part, size in enumerate(spec.parts)))


def _stack(spec: TensorSpec, blocks: tuple[Block, ...], padding: int = 0) -> Shard:
    rows = sum(len(block.rows) for block in blocks) + padding
    stacked = () if spec.experts is None else (spec.experts,)
    if spec.columns is None:
        return Shard((*stacked, rows // (spec.experts or 1)), blocks, padding)
    columns = blocks[0].columns
    width = spec.columns if columns is None else len(columns)
    return Shard((*stacked, rows // (spec.experts or 1), width), blocks, padding)


def _even(size: int, tp_size: int, tp_rank: int) -> range:
    return range(tp_rank * size // tp_size, (tp_rank + 1) * size // tp_size)


def _head_rows(heads: int, head_size: int, tp_size: int, tp_rank: int) -> range:
    """Rows of the heads of a rank. With fewer heads than ranks, neighbouring ranks hold a copy of the same head."""
    if heads >= tp_size:
        span = _even(heads, tp_size, tp_rank)
    else:
        first = tp_rank * heads // tp_size
        span = range(first, first + 1)
    return range(span.start * head_size, span.stop * head_size)


def split_problems(config: CheckpointConfig) -> list[str]:
    """Why this model cannot be split as config.mapping asks; empty when it can."""
    tp, pp, kv = config.mapping.tp_size, config.mapping.pp_size, config.num_key_value_heads
    problems = []
    if config.kv_lora_rank is not None and tp > 1:
        problems.append(f"tp_size {tp}: latent attention, whose heads share what is cached, is not split over ranks")
    if config.inflight is not None and config.inflight.relative_span is not None and tp > 1:
        problems.append(f"tp_size {tp}: disentangled attention is not split over ranks")
    if config.num_attention_heads % tp:
        problems.append(f"tp_size {tp} does not divide the {config.num_attention_heads} attention heads")
    if max(kv, tp) % min(kv, tp):
        problems.append(f"{kv} key-value heads can neither be shared out nor repeated evenly over tp_size {tp}")
    if config.intermediate_size % tp:
        problems.append(f"tp_size {tp} does not divide intermediate_size {config.intermediate_size}")
    for key in ("moe_intermediate_size", "moe_shared_expert_intermediate_size"):
        if (getattr(config, key) or 0) % tp:
            problems.append(f"tp_size {tp} does not divide {key} {getattr(config, key)}")
    if config.use_parallel_embedding and config.embedding_sharding_dim == 1 and config.hidden_size % tp:
        problems.append(f"tp_size {tp} does not divide hidden_size {config.hidden_size} (embedding_sharding_dim 1)")
    if pp > config.num_hidden_layers:
        problems.append(f"pp_size {pp} is more than the {config.num_hidden_layers} layers")
    return problems


def stack_problems(config: CheckpointConfig, specs: Iterable[TensorSpec]) -> list[str]:
    """Stacks of experts whose matrices would share a byte; a line for each kind of them."""
    problems = {}
    for spec in specs:
        quantization = quantization_of(spec, config)
        outputs = sum(spec.parts) // (spec.experts or 1)
        if spec.experts is not None and quantization is not None and quantization.bits == 4 and outputs % 2:
            problems[spec.module] = f"{outputs} outputs of {spec.module} in 4 bits: pass --dequantize, or 8 bits"
    return list(problems.values())


def group_problems(config: CheckpointConfig, specs: Iterable[TensorSpec]) -> list[str]:
    """Matrices whose columns would be cut inside a group of weights that share a scale; a line for each module."""
    tp, problems = config.mapping.tp_size, {}
    kept = config.module_quantization.kept_from_source
    way = "pass --dequantize" if kept else "choose a --group-size that divides each rank's share"
    for spec in specs:
        quantization = quantization_of(spec, config)
        if tp == 1 or spec.split != "columns" or spec.columns is None or quantization is None:
            continue
        size = quantization.group_size
        if quantization.ordered_inputs:
            problems[spec.module] = (
                f"tp_size {tp} cuts the columns of {spec.module}, whose groups are no neighbours (desc_act): {way}"
            )
        elif size and spec.columns // tp % size:
            problems[spec.module] = (
                f"tp_size {tp} cuts the {spec.columns} columns of {spec.module} inside a group of {size}: "
                f"{way}, or --quantize int8_wo"
            )
    return list(problems.values())

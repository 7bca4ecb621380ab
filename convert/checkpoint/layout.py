"""The tensors of a checkpoint: names, shapes, and how tensor and pipeline parallelism split them.

Linear weights are (out, in). Layers are numbered from 0 on every pipeline stage. The rules are those of the
TensorRT-LLM checkpoint format (docs/formats/checkpoint.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.quantization.scheme import WeightQuantization

LAYER_PREFIX = "transformer.layers."
Split = Literal["whole", "heads", "rows", "columns", "vocab"]
Kind = Literal["weight", "bias"]


@dataclass(frozen=True, slots=True)
class Traits:
    """Which optional tensors a model has; every layer is alike."""

    qkv_bias: bool = False
    dense_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    lm_head: bool = True


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the whole model, before it is split over tensor-parallel ranks.

    `name` is the name in a rank file; `layer` counts over the whole model, None outside the layers. The tensor is the
    concatenation along dimension 0 of parts of `parts` rows (q, k, v for attention.qkv; one part otherwise), each of
    `columns` columns, None for a vector.
    """

    name: str
    module: str
    kind: Kind
    layer: int | None
    parts: tuple[int, ...]
    columns: int | None
    split: Split


def module_path(tensor: str) -> str:
    """The module of a weight: "transformer.layers.0.mlp.fc" of "transformer.layers.0.mlp.fc.weight"."""
    return tensor.removesuffix(".weight")


def quantization_of(spec: TensorSpec, config: CheckpointConfig) -> WeightQuantization | None:
    """How this tensor is quantized; None when it is stored in the checkpoint's type."""
    found = config.weight_quantization
    matrix = spec.kind == "weight" and spec.columns is not None
    return found if found is not None and matrix and found.covers(module_path(spec.name)) else None


def stage_layers(num_layers: int, pp_size: int, stage: int) -> range:
    """The layers of a pipeline stage: contiguous, and the first `num_layers % pp_size` stages have one more."""
    size, extra = divmod(num_layers, pp_size)
    start = stage * size + min(stage, extra)
    return range(start, start + size + (stage < extra))


def stage_tensors(config: CheckpointConfig, traits: Traits, stage: int) -> Iterator[TensorSpec]:
    """The tensors of one pipeline stage, in the order of the computation."""
    pp_size = config.mapping.pp_size
    hidden, vocab = config.hidden_size, config.vocab_size
    if stage == 0:
        sharded: Split = "columns" if config.embedding_sharding_dim == 1 else "vocab"
        split: Split = sharded if config.use_parallel_embedding else "whole"
        yield _outer("transformer.vocab_embedding", (vocab,), hidden, split)
    for local, layer in enumerate(stage_layers(config.num_hidden_layers, pp_size, stage)):
        yield from _layer_tensors(config, traits, local, layer)
    if stage == pp_size - 1:
        yield _outer("transformer.ln_f", (hidden,), None, "whole")
        if traits.lm_head:
            yield _outer("lm_head", (vocab,), hidden, "vocab")


def _outer(module: str, parts: tuple[int, ...], columns: int | None, split: Split) -> TensorSpec:
    return TensorSpec(f"{module}.weight", module.removeprefix("transformer."), "weight", None, parts, columns, split)


def _layer_tensors(config: CheckpointConfig, traits: Traits, local: int, layer: int) -> Iterator[TensorSpec]:
    hidden, inter, head = config.hidden_size, config.intermediate_size, config.head_size
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head

    def linear(module: str, parts: tuple[int, ...], columns: int, split: Split, bias: bool) -> Iterator[TensorSpec]:
        name = f"{LAYER_PREFIX}{local}.{module}"
        yield TensorSpec(f"{name}.weight", module, "weight", layer, parts, columns, split)
        if bias:
            # A row-parallel product adds its bias after the all-reduce: every rank holds all of it.
            bias_split: Split = "whole" if split == "columns" else split
            yield TensorSpec(f"{name}.bias", module, "bias", layer, parts, None, bias_split)

    def norm(module: str, size: int) -> TensorSpec:
        return TensorSpec(f"{LAYER_PREFIX}{local}.{module}.weight", module, "weight", layer, (size,), None, "whole")

    yield norm("input_layernorm", hidden)
    yield from linear("attention.qkv", (q, kv, kv), hidden, "heads", traits.qkv_bias)
    if traits.qk_norm:
        yield norm("attention.q_layernorm", head)
        yield norm("attention.k_layernorm", head)
    yield from linear("attention.dense", (hidden,), q, "columns", traits.dense_bias)
    yield norm("post_layernorm", hidden)
    yield from linear("mlp.fc", (inter,), hidden, "rows", traits.mlp_bias)
    yield from linear("mlp.gate", (inter,), hidden, "rows", traits.mlp_bias)
    yield from linear("mlp.proj", (hidden,), inter, "columns", traits.mlp_bias)


def traits_of(config: CheckpointConfig, names: set[str]) -> Traits:
    """The traits of an existing checkpoint from all its tensor names: what one layer has, every layer must have.

    The config counts as well, so that a tensor lost from every layer is noticed.
    """

    def present(ending: str) -> bool:
        return any(name.endswith(ending) for name in names)

    return Traits(
        qkv_bias=bool(config.attn_bias) or present("attention.qkv.bias"),
        dense_bias=present("attention.dense.bias"),
        mlp_bias=bool(config.mlp_bias) or any(present(f"mlp.{module}.bias") for module in ("fc", "gate", "proj")),
        qk_norm=bool(config.qk_layernorm) or present("attention.q_layernorm.weight"),
        lm_head="lm_head.weight" in names or config.tie_word_embeddings is False or _quantized_head(config),
    )


def _quantized_head(config: CheckpointConfig) -> bool:
    """A quantized projection is stored, even that of a tied model: the embedding itself is never quantized."""
    found = config.weight_quantization
    return found is not None and found.covers("lm_head") and config.inflight is not None

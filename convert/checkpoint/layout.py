"""The tensors of a checkpoint: names, shapes, and how tensor and pipeline parallelism split them.

Linear weights are (out, in). Layers are numbered from 0 on every pipeline stage. The rules are those of the
TensorRT-LLM checkpoint format (docs/formats/checkpoint.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.model_spec import (
    AttentionSpec,
    ExpertsSpec,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    PooledSpec,
)
from inflight.convert.checkpoint.position_spec import BucketsSpec
from inflight.convert.quantization.scheme import WeightQuantization

LAYER_PREFIX = "transformer.layers."
Split = Literal["whole", "heads", "rows", "columns", "vocab"]
Kind = Literal["weight", "bias", "sinks", "relative_bias", "e_score_correction_bias"]
# Modules whose rows are looked up: no product reads them, and nothing quantizes them.
TABLES = ("vocab_embedding", "position_embedding", "token_type_embedding", "relative_bias")
# The numbers of BucketsSpec, where all layers share them.
RELATIVE_BIAS = "transformer.relative_bias.weight"
# The rows of DisentangledSpec, a stack.
POSITIONS = "attention.positions"
# Axes of the matrices of all experts: experts, out, in.
STACK_AXES = 3


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the whole model, before it is split over tensor-parallel ranks.

    `name` is the name in a rank file; `layer` counts over the whole model, None outside the layers. The tensor is the
    concatenation along dimension 0 of parts of `parts` rows (q, k, v for attention.qkv; one part otherwise), each of
    `columns` columns, None for a vector. `wide`: it is written as float32, whatever the checkpoint's type. `experts`:
    it is a stack of so many matrices, of experts or heads, each of as many neighbouring parts; `plain`: nothing
    quantizes it.
    """

    name: str
    module: str
    kind: Kind
    layer: int | None
    parts: tuple[int, ...]
    columns: int | None
    split: Split
    wide: bool = False
    experts: int | None = None
    plain: bool = False

    def dtype(self, config: CheckpointConfig) -> str:
        """The type in which it is written, unless it is quantized."""
        return "float32" if self.wide else config.dtype


def relative_bias_table(bias: BucketsSpec) -> str:
    """The tensor that has its numbers, [buckets, heads], in a checkpoint of one rank."""
    return RELATIVE_BIAS if bias.layer is None else f"{LAYER_PREFIX}{bias.layer}.attention.relative_bias"


def module_path(tensor: str) -> str:
    """The module of a weight: "transformer.layers.0.mlp.fc" of "transformer.layers.0.mlp.fc.weight"."""
    return tensor.removesuffix(".weight")


def quantization_of(spec: TensorSpec, config: CheckpointConfig) -> WeightQuantization | None:
    """How this tensor is quantized; None when it is stored in the checkpoint's type."""
    quantizable = is_product(spec) and not spec.plain
    return config.quantization_of(module_path(spec.name)) if quantizable else None


def is_product(spec: TensorSpec) -> bool:
    """True for the matrix of a product, or of several in a stack."""
    return spec.kind == "weight" and spec.columns is not None and spec.module not in TABLES


def stage_layers(num_layers: int, pp_size: int, stage: int) -> range:
    """The layers of a pipeline stage: contiguous, and the first `num_layers % pp_size` stages have one more."""
    size, extra = divmod(num_layers, pp_size)
    start = stage * size + min(stage, extra)
    return range(start, start + size + (stage < extra))


def stage_tensors(config: CheckpointConfig, spec: ModelSpec, stage: int) -> Iterator[TensorSpec]:
    """The tensors of one pipeline stage, in the order of the computation."""
    pp_size = config.mapping.pp_size
    hidden, vocab = spec.hidden_size, spec.vocab_size
    width = spec.embedding_size or hidden
    if stage == 0:
        sharded: Split = "columns" if config.embedding_sharding_dim == 1 else "vocab"
        split: Split = sharded if config.use_parallel_embedding else "whole"
        yield TensorSpec(
            "transformer.vocab_embedding.weight", "vocab_embedding", "weight", None, (vocab,), width, split
        )
        for module, rows in (("position_embedding", spec.positions), ("token_type_embedding", spec.token_types)):
            if rows is not None:
                yield TensorSpec(f"transformer.{module}.weight", module, "weight", None, (rows,), width, "whole")
        outside = _LayerTensors("transformer.", None)
        yield from outside.norm(spec.embedding_norm)
        if spec.embedding_size is not None:
            yield from outside.linear(
                "embedding_projection", (hidden,), spec.embedding_size, "whole", bias=not spec.embedding_norm_last
            )
        if isinstance(bias := spec.layers[0].attention.bias, BucketsSpec) and bias.layer is None:
            shape = ((bias.buckets,), spec.layers[0].attention.num_heads)
            yield TensorSpec(RELATIVE_BIAS, "relative_bias", "weight", None, *shape, "whole")
    for local, layer in enumerate(stage_layers(len(spec.layers), pp_size, stage)):
        yield from _LayerTensors(f"{LAYER_PREFIX}{local}.", layer).all(spec.layers[layer], hidden)
    if stage == pp_size - 1:
        yield from _LayerTensors("transformer.", None).norm(spec.final_norm)
        if spec.pooled is not None:
            yield from _pooled_tensors(spec.pooled, hidden)
            return
        if spec.lm_head:
            yield TensorSpec("lm_head.weight", "lm_head", "weight", None, (vocab,), hidden, "vocab")
        if spec.head_bias:
            yield TensorSpec("lm_head.bias", "lm_head", "bias", None, (vocab,), None, "vocab")


def _pooled_tensors(pooled: PooledSpec, hidden: int) -> Iterator[TensorSpec]:
    for index, dense in enumerate(pooled.dense):
        module, rows = f"pooling.dense.{index}", (dense.outputs,)
        yield TensorSpec(f"{module}.weight", module, "weight", None, rows, dense.inputs, "whole", wide=True, plain=True)
        if dense.bias:
            yield TensorSpec(f"{module}.bias", module, "bias", None, rows, None, "whole", wide=True)
        yield from _LayerTensors("", None).norm(dense.norm)
    classifier = pooled.classifier
    if classifier is None:
        return
    of_model = _LayerTensors("", None)
    if classifier.activation is not None:
        yield from of_model.linear("classifier.dense", (hidden,), hidden, "whole", bias=classifier.norm is None)
        yield from of_model.norm(classifier.norm)
    has_bias = classifier.activation is not None or classifier.bias
    yield from of_model.linear("classifier.out", (classifier.labels,), hidden, "whole", bias=has_bias)


@dataclass(frozen=True, slots=True)
class _LayerTensors:
    """Tensors below `prefix`; `layer` counts over the whole model."""

    prefix: str
    layer: int | None

    def all(self, spec: LayerSpec, hidden: int) -> Iterator[TensorSpec]:
        mlp = spec.mlp
        yield from self.norm(spec.before_attention)
        yield from (self.latent if spec.attention.latent else self.attention)(spec.attention, hidden)
        yield from self.norm(spec.after_attention)
        if spec.before_mlp != spec.before_attention:
            yield from self.norm(spec.before_mlp)
        yield from self.mlp("mlp", mlp, hidden) if isinstance(mlp, MlpSpec) else self.experts(mlp, hidden)
        yield from self.norm(spec.after_mlp)

    def attention(self, spec: AttentionSpec, hidden: int) -> Iterator[TensorSpec]:
        q, kv = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
        yield from self.linear("attention.qkv", (q, kv, kv), hidden, "heads", spec.qkv_bias)
        yield from self.norm(spec.q_norm)
        yield from self.norm(spec.k_norm)
        if spec.disentangled is not None:
            name, parts = f"{self.prefix}{POSITIONS}.weight", (2 * spec.disentangled.span,) * 2 * spec.num_heads
            sizes, count = (parts, spec.head_size), len(parts)
            yield TensorSpec(name, POSITIONS, "weight", self.layer, *sizes, "whole", experts=count, plain=True)
        yield from self.linear("attention.dense", (hidden,), q, "columns", spec.dense_bias)
        if isinstance(spec.bias, BucketsSpec) and spec.bias.layer is not None:
            name, buckets = f"{self.prefix}attention.relative_bias", (spec.bias.buckets,)
            yield TensorSpec(name, "attention", "relative_bias", self.layer, buckets, spec.num_heads, "whole")
        if spec.sinks:
            name, heads = f"{self.prefix}attention.sinks", (spec.num_heads,)
            yield TensorSpec(name, "attention", "sinks", self.layer, heads, None, "rows")

    def latent(self, spec: AttentionSpec, hidden: int) -> Iterator[TensorSpec]:
        """What makes queries, and the row that is cached; the matrices of the heads in two stacks, of which those of
        keys are transposed; and the product behind them. It is not split over ranks.
        """
        latent, heads = spec.latent, spec.num_heads
        assert latent is not None
        if latent.query_rank is not None:
            yield from self.linear("attention.q_a", (latent.query_rank,), hidden, "whole", spec.qkv_bias)
            yield from self.norm(latent.query_norm)
        query, width = ("q", hidden) if latent.query_rank is None else ("q_b", latent.query_rank)
        yield from self.linear(f"attention.{query}", (heads * spec.head_size,), width, "whole", bias=False)
        yield from self.linear("attention.kv_a", (spec.cached_elements,), hidden, "whole", spec.qkv_bias)
        yield from self.norm(latent.norm)
        for module, rows, columns in (
            ("attention.k_b", latent.rank, latent.plain_size),
            ("attention.v_b", latent.value_size, latent.rank),
        ):
            name, parts = f"{self.prefix}{module}.weight", (rows,) * heads
            yield TensorSpec(name, module, "weight", self.layer, parts, columns, "whole", experts=heads, plain=True)
        yield from self.linear("attention.dense", (hidden,), heads * latent.value_size, "columns", spec.dense_bias)

    def mlp(self, module: str, mlp: MlpSpec, hidden: int) -> Iterator[TensorSpec]:
        yield from self.linear(f"{module}.fc", (mlp.size,), hidden, "rows", mlp.bias)
        if mlp.gated:
            yield from self.linear(f"{module}.gate", (mlp.size,), hidden, "rows", mlp.bias)
        if mlp.activation == "xielu":
            name = f"{self.prefix}{module}.act.weight"
            yield TensorSpec(name, f"{module}.act", "weight", self.layer, (1,) * 4, None, "whole", wide=True)
        yield from self.linear(f"{module}.proj", (hidden,), mlp.size, "columns", mlp.last_bias)

    def experts(self, spec: ExpertsSpec, hidden: int) -> Iterator[TensorSpec]:
        """The router, the experts' matrices in two stacks (of each what multiplies the activated branch, then that
        branch), and the expert that is shared.
        """
        count = spec.count
        yield self.plain("router", (count,), hidden, wide=True)
        yield self.stack("fc", (spec.size, spec.size) * count, hidden, "rows", count)
        yield self.stack("proj", (hidden,) * count, spec.size, "columns", count)
        if spec.biased_choice:
            named = self._of_experts("router", "e_score_correction_bias")
            yield TensorSpec(*named, self.layer, (count,), None, "whole", wide=True)
        if spec.bias:
            yield TensorSpec(*self._of_experts("router", "bias"), self.layer, (count,), None, "whole", wide=True)
            halves = (spec.size, spec.size) * count
            yield TensorSpec(*self._of_experts("fc", "bias"), self.layer, halves, None, "rows", experts=count)
            rows = (hidden,) * count
            yield TensorSpec(*self._of_experts("proj", "bias"), self.layer, rows, None, "whole", experts=count)
        if spec.shared is not None:
            assert spec.activation != "clamped_swiglu", "no shared expert has it"
            yield from self.mlp("mlp.shared_expert", MlpSpec(spec.shared.size, spec.activation), hidden)
            if spec.shared.gated:
                yield self.plain("shared_expert_gate", (1,), hidden)

    def plain(self, name: str, parts: tuple[int, ...], columns: int, *, wide: bool = False) -> TensorSpec:
        """A weight that nothing quantizes. Its names in the source are those of the module `experts.{name}`."""
        named = self._of_experts(name, "weight")
        return TensorSpec(*named, self.layer, parts, columns, "whole", wide=wide, plain=True)

    def stack(self, name: str, parts: tuple[int, ...], columns: int, split: Split, experts: int) -> TensorSpec:
        """The matrices of all experts. Their names in the source are those of the module `experts.{name}`."""
        return TensorSpec(*self._of_experts(name, "weight"), self.layer, parts, columns, split, experts=experts)

    def _of_experts(self, name: str, kind: Kind) -> tuple[str, str, Kind]:
        """Name, module and kind of a tensor of a mixture."""
        return f"{self.prefix}mlp.{name}.{kind}", f"experts.{name}", kind

    def linear(
        self, module: str, parts: tuple[int, ...], columns: int, split: Split, bias: bool
    ) -> Iterator[TensorSpec]:
        name = f"{self.prefix}{module}"
        yield TensorSpec(f"{name}.weight", module, "weight", self.layer, parts, columns, split)
        if bias:
            # A row-parallel product adds its bias after the all-reduce: every rank holds all of it.
            bias_split: Split = "whole" if split == "columns" else split
            yield TensorSpec(f"{name}.bias", module, "bias", self.layer, parts, None, bias_split)

    def norm(self, norm: NormSpec | None) -> Iterator[TensorSpec]:
        if norm is None:
            return
        there: tuple[tuple[Kind, bool], ...] = (("weight", norm.weight), ("bias", norm.bias))
        for kind in (kind for kind, given in there if given):
            name = f"{self.prefix}{norm.module}.{kind}"
            yield TensorSpec(name, norm.module, kind, self.layer, (norm.size,), None, "whole", norm.wide)

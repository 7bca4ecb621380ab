"""Facts of a checkpoint for the manifest of an engine, and the work per token."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

from msgspec import UNSET, UnsetType

from inflight.build.dense import DENSE_FILE
from inflight.build.target import BuildFacts
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import TABLES, module_path
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.convert.checkpoint.pooling import PairTemplate
from inflight.convert.checkpoint.position_spec import Sight
from inflight.convert.quantization.schemes import SCALE_SUFFIXES, ZERO_POINT
from inflight.engine_format.manifest import (
    DenseFacts,
    Dtype,
    GenerationFacts,
    LayerKind,
    ModelFacts,
    PairTemplateFacts,
    PoolingFacts,
    ScoreToken,
    SourceFacts,
    WorkPlan,
)
from inflight.files.tensor_file import TensorEntry

_STACK_AXES = 3
_EMBEDDING, _PROJECTION = "transformer.vocab_embedding.weight", "lm_head.weight"
_CLASSIFIER = "classifier."
_TABLES = tuple(f"transformer.{module}.weight" for module in TABLES[1:])


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    config, spec = checkpoint.config, checkpoint.spec
    first, sights, kinds = spec.layers[0], spec.sights, _layer_kinds(spec)
    return ModelFacts(
        architecture=config.architecture,
        dtype=cast(Dtype, config.dtype),  # opening the checkpoint refused others
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=checkpoint.config.intermediate_size,
        num_hidden_layers=len(spec.layers),
        num_attention_heads=first.attention.num_heads,
        num_key_value_heads=first.attention.num_kv_heads,
        head_size=first.attention.head_size,
        latent_size=UNSET if first.attention.latent is None else first.attention.cached_elements,
        max_position_embeddings=spec.max_positions or 0,
        sliding_window=sights[0].window if len(sights) == 1 else None,
        layer_kinds=kinds if len(kinds) > 1 else UNSET,
        tie_word_embeddings=checkpoint.ties_embeddings,
        num_parameters=num_parameters(checkpoint),
        active_parameters=active_parameters(checkpoint) if checkpoint.config.has_experts else UNSET,
    )


def _layer_kinds(spec: ModelSpec) -> tuple[LayerKind, ...]:
    """A kind for each window, chunk and rotary base, in the order in which the layers first have them."""
    members: dict[tuple[Sight, float | None], list[int]] = {}
    for index, layer in enumerate(spec.layers):
        rope = layer.attention.rope
        members.setdefault((layer.attention.sight, None if rope is None else rope.base), []).append(index)
    return tuple(
        LayerKind(
            layers=_layer_list(layers),
            sliding_window=sight.window,
            attention_chunk=UNSET if sight.chunk is None else sight.chunk,
            rotary_base=base,
        )
        for (sight, base), layers in members.items()
    )


def _layer_list(layers: Sequence[int]) -> str:
    """Ascending layer numbers in words: "0-4, 6-10, 12"."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def active_parameters(checkpoint: Checkpoint) -> int:
    """Those that one token meets: of the experts, those that are chosen for it."""
    stacks = [*_stacks(checkpoint), *_stack_biases(checkpoint)]
    idle = (prod(entry.shape) - _met(checkpoint, entry, prod(entry.shape)) for entry in stacks)
    return num_parameters(checkpoint) - sum(idle)


def _stack_biases(checkpoint: Checkpoint) -> list[TensorEntry]:
    """(experts, out); every other bias is a vector."""
    biases = (entry for name, entry in checkpoint.tensors.items() if name.endswith(".bias"))
    return [entry for entry in biases if len(entry.shape) == _STACK_AXES - 1]


def _stacks(checkpoint: Checkpoint) -> list[TensorEntry]:
    """The matrices of all experts of a layer are one tensor (experts, out, in)."""
    weights = (entry for name, entry in checkpoint.logical_tensors().items() if name.endswith(".weight"))
    return [entry for entry in weights if len(entry.shape) == _STACK_AXES and not _of_heads(entry.name)]


def _of_heads(name: str) -> bool:
    """Whether a stack is that of the heads of latent attention, all of which every token meets."""
    return name.endswith((".attention.k_b.weight", ".attention.v_b.weight"))


def _met(checkpoint: Checkpoint, entry: TensorEntry, amount: int) -> int:
    """What one token meets of the stack `entry`, which has so many bytes or elements."""
    moe = checkpoint.config.moe
    return amount if moe is None else amount // entry.shape[0] * moe.top_k


def num_parameters(checkpoint: Checkpoint) -> int:
    """Scales are not parameters, nor is the quantized copy of a tied embedding."""
    tensors = checkpoint.logical_tensors()
    if checkpoint.config.tie_word_embeddings and checkpoint.quantization_of("lm_head") is not None:
        tensors.pop(_PROJECTION, None)
    return sum(prod(entry.shape) for name, entry in tensors.items() if not name.endswith(SCALE_SUFFIXES))


def generation_facts(checkpoint: Checkpoint) -> GenerationFacts:
    """Empty for a checkpoint that others wrote: the documented format has no place for them."""
    extras = checkpoint.config.inflight
    if extras is None:
        return GenerationFacts()
    return GenerationFacts(
        end_token_ids=extras.end_token_ids,
        pad_token_id=extras.pad_token_id,
        bos_token_id=extras.bos_token_id,
        sampling_defaults=extras.sampling_defaults,
    )


def pooling_facts(checkpoint: Checkpoint) -> PoolingFacts | UnsetType:
    """What becomes of hidden states; unset for a model that generates."""
    pooling, spec = checkpoint.config.pooling, checkpoint.spec
    if pooling is None:
        return UNSET
    return PoolingFacts(
        task=pooling.task,
        pooling=pooling.pooling,
        output_size=spec.output_size,
        causal=all(layer.attention.causal for layer in spec.layers),
        token_types=_token_types(spec.token_types or 0, pooling.token_kinds),
        normalize=pooling.normalize,
        activation=pooling.activation,
        label_names=pooling.label_names or UNSET,
        prompts=pooling.prompts,
        default_prompt=pooling.default_prompt,
        pair_template=_pair_template(pooling.pair_template),
        score_tokens=tuple(ScoreToken(each.id, _or_unset(each.token)) for each in pooling.score_tokens) or UNSET,
        dense=tuple(
            DenseFacts(
                size=each.outputs,
                activation=each.activation,
                norm_epsilon=UNSET if each.norm_epsilon is None else each.norm_epsilon,
            )
            for each in pooling.dense
        ),
        dense_file=DENSE_FILE if pooling.dense else None,
    )


def _pair_template(template: PairTemplate | None) -> PairTemplateFacts | None:
    if template is None:
        return None
    return PairTemplateFacts(template.source, template.add_generation_prompt, _or_unset(template.origin))


def _or_unset(text: str | None) -> str | UnsetType:
    return UNSET if text is None else text


def _token_types(count: int, told: bool) -> int:
    """Those that texts have: one, where the tokenizer tells no kinds of tokens."""
    return count if told else min(count, 1)


def source_facts(checkpoint: Checkpoint) -> SourceFacts:
    """The source's name and revision as the checkpoint gives them, never a path; the digest is of the checkpoint."""
    extras, quantization = checkpoint.config.inflight, checkpoint.config.module_quantization
    return SourceFacts(
        model=extras.source.model if extras else checkpoint.config.architecture,
        revision=extras.source.revision if extras else None,
        checkpoint_sha256=checkpoint.sha256(),
        rounded_by_convert=quantization.rounded_by_convert,
        kept_from_source=quantization.kept_from_source,
    )


def work_plan(checkpoint: Checkpoint, target: BuildFacts) -> WorkPlan:
    """Operations and bytes of the matrix products; a decode step reads every weight but the embedding table once, and
    the scales and zero points of quantized ones. Of experts a step of one token reads those that it meets.
    """
    tensors = checkpoint.logical_tensors()
    weights = {name: entry for name, entry in tensors.items() if name.endswith(".weight")}
    matrices = {name: entry for name, entry in weights.items() if len(entry.shape) == 2 or _of_heads(name)}
    embedding = matrices.pop(_EMBEDDING)
    for table in _TABLES:
        matrices.pop(table, None)
    if checkpoint.spec.pooled is None:
        last = [matrices.pop(_PROJECTION, embedding)]
    else:
        last = [matrices.pop(name) for name in list(matrices) if name.startswith(_CLASSIFIER)]
    stacks = _stacks(checkpoint)
    read = [*matrices.values(), *last]
    met = sum(_met(checkpoint, entry, prod(entry.shape)) for entry in stacks)
    beside = [checkpoint.scales_of(entry.name) for entry in stacks]
    stored = [(one, entry) for entry, scale in zip(stacks, beside, strict=True) for one in (entry, scale) if one]
    met_bytes = sum(_met(checkpoint, entry, one.nbytes) for one, entry in stored)
    scales = [checkpoint.scales_of(entry.name) for entry in read]
    zeros = [tensors.get(f"{module_path(entry.name)}{ZERO_POINT}") for entry in read]
    moved, kv_cache = target.matrix_bytes, target.kv_cache
    if moved is None:
        moved = sum(entry.nbytes for entry in [*read, *scales, *zeros] if entry is not None)
    return WorkPlan(
        layer_flops_per_token=2 * (sum(prod(entry.shape) for entry in matrices.values()) + met),
        logits_flops_per_row=2 * sum(prod(entry.shape) for entry in last),
        weight_bytes_per_step=moved + met_bytes,
        kv_bytes_per_token=kv_cache.bytes_per_block // kv_cache.tokens_per_block,
    )

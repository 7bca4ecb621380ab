"""ModelSpec of a checkpoint: its config.json, read as its architecture's row of the family table has it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.checkpoint.inventory import OptionalTensors
from inflight.convert.checkpoint.model_spec import (
    AttentionSpec,
    ClassifierSpec,
    DenseSpec,
    ExpertsSpec,
    LatentSpec,
    LayerSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    PooledSpec,
    RopeSpec,
    SharedExpertSpec,
)
from inflight.convert.checkpoint.pooling import DenseRecord
from inflight.convert.checkpoint.position_spec import (
    BucketsSpec,
    DisentangledSpec,
    PositionBias,
    QueryScaleSpec,
    SlopesSpec,
    linear_slopes,
)
from inflight.convert.checkpoint.support import DISTANCES, LINEAR_BIASES, activation
from inflight.convert.families.family import Family
from inflight.convert.families.table import family_of
from inflight.dtypes import numpy_dtype

# Of the norms inside latent attention, in every model that has it and whatever its rms_norm_eps says: transformers and
# the code that DeepSeek publishes leave it at that of the norm's class.
_LATENT_EPSILON = 1e-6


def model_spec(config: CheckpointConfig, optional: OptionalTensors) -> ModelSpec:
    """What a supported config means (see `support.unsupported`)."""
    family, block = family_of(config.architecture), config.inflight
    width = block.embedding_size if block else None
    normed = config.hidden_size if family.embedding_norm_last else width or config.hidden_size
    tabled = family.learned_positions or (block is not None and block.learned_positions)
    return ModelSpec(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        max_positions=config.max_position_embeddings,
        layers=tuple(
            _layer(config, family, optional, index, window) for index, window in enumerate(_windows(config, family))
        ),
        final_norm=None if family.norms_sums else _norm(config, family, config.hidden_size)("ln_f"),
        lm_head=optional.lm_head,
        embedding_scale=_embedding_scale(config, family),
        logit_scale=config.output_multiplier_scale or 1.0,
        logit_softcap=config.final_logit_softcapping,
        head_bias=optional.head_bias,
        positions=config.max_position_embeddings if tabled else None,
        token_types=block.token_types if block else None,
        embedding_norm=_norm(config, family, normed)("ln_embed") if family.embedding_norm else None,
        embedding_size=width,
        embedding_norm_last=family.embedding_norm_last,
        pooled=_pooled(config, family),
    )


def _pooled(config: CheckpointConfig, family: Family) -> PooledSpec | None:
    pooling = config.pooling
    if pooling is None:
        return None
    norm = None
    if "classifier.norm" in family.names:
        norm = _norm(config, family, config.hidden_size)("classifier.norm")
    labels = pooling.labels
    classifier = None if labels is None else ClassifierSpec(labels, family.classifier_activation, norm)
    if labels is not None and pooling.task == "token_classify" and not family.token_head:
        classifier = ClassifierSpec(labels, None, bias=True)
    return PooledSpec(pooling.rows, classifier, tuple(map(_dense, range(len(pooling.dense)), pooling.dense)))


def _dense(index: int, record: DenseRecord) -> DenseSpec:
    norm = None
    if record.norm_epsilon is not None:
        norm = NormSpec(f"pooling.dense.{index}.norm", record.outputs, record.norm_epsilon, "layer", wide=True)
    return DenseSpec(record.outputs, record.inputs, record.bias, norm)


def _norm(config: CheckpointConfig, family: Family, size: int) -> partial[NormSpec]:
    return partial(
        NormSpec,
        size=size,
        epsilon=config.norm_epsilon,
        kind=family.norm,
        bias=family.norm == "layer" and family.norm_bias,
        weight=family.norm_weight,
        wide=family.norm_offset != 0,
    )


def _layer(
    config: CheckpointConfig, family: Family, optional: OptionalTensors, index: int, window: int | None
) -> LayerSpec:
    parallel = config.inflight.parallel if config.inflight else None
    norm = _norm(config, family, config.hidden_size)
    before_attention, before_mlp, after_attention, after_mlp = (
        None if module is None else norm(module) for module in _norm_modules(family)
    )
    if family.bare_first and index == 0:
        before_attention = None
    return LayerSpec(
        attention=_attention(config, family, optional, index, window),
        mlp=_mlp(config, family, optional, index),
        before_attention=before_attention,
        before_mlp=before_attention if parallel == "one_norm" else before_mlp,
        after_attention=after_attention,
        after_mlp=after_mlp,
        residual_scale=config.residual_multiplier or 1.0,
        parallel=parallel is not None,
        norm_sums=family.norms_sums,
    )


def _norm_modules(family: Family) -> tuple[str | None, str | None, str | None, str | None]:
    """The norms before attention and MLP, and those after them."""
    if family.sandwich_norms:
        return "input_layernorm", "pre_feedforward_layernorm", "post_layernorm", "post_feedforward_layernorm"
    if family.post_norms:
        return None, None, "post_layernorm", "post_feedforward_layernorm"
    return "input_layernorm", "post_layernorm", None, None


def _mlp(config: CheckpointConfig, family: Family, optional: OptionalTensors, index: int) -> MlpSpec | ExpertsSpec:
    moe = config.moe
    if moe is None or not moe.num_experts or index in (config.mlp_only_layers or ()):
        biases = optional.mlp_bias, family.mlp_proj_bias
        decided = config.inflight is not None and config.inflight.gated_mlp is True
        gated = decided if isinstance(family.gated_mlp, str) else family.gated_mlp
        return MlpSpec(config.intermediate_size, activation(config), gated, *biases)
    mixture, shared = family.mixture, config.moe_shared_expert_intermediate_size or moe.shared_expert_intermediate_size
    return ExpertsSpec(
        count=moe.num_experts,
        top_k=moe.top_k,
        size=config.moe_intermediate_size or config.intermediate_size,
        activation="clamped_swiglu" if mixture is not None and mixture.clamped else activation(config),
        routing=moe.routing,
        bias=mixture is not None and mixture.bias,
        epsilon=moe.epsilon,
        scale=moe.routed_scaling_factor,
        groups=moe.num_groups,
        top_groups=moe.top_groups,
        shared=SharedExpertSpec(shared, mixture is not None and mixture.gates_shared_expert) if shared else None,
    )


def _attention(
    config: CheckpointConfig, family: Family, optional: OptionalTensors, index: int, window: int | None
) -> AttentionSpec:
    heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_size
    if family.latent:
        return _latent_attention(config, family, optional, index)
    query_size, key_size = (heads * size, kv_heads * size) if family.qk_norm_width else (size, size)
    rope = None if family.learned_positions else _rope(config, index, local=window is not None)
    block = config.inflight
    norms = optional.qk_norm and not (family.qk_norm_bare and rope is None)
    chunked = block is not None and block.layer_types is not None and block.layer_types[index] == "chunked_attention"
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=size,
        scale=_query_scale(config),
        rope=rope,
        window=window,
        chunk=block.attention_chunk if block is not None and chunked else None,
        bias=_position_bias(config, family, index),
        disentangled=_disentangled(config),
        query_scale=_query_factors(config, turns=rope is not None),
        softcap=config.attn_logit_softcapping,
        qkv_bias=optional.qkv_bias,
        dense_bias=optional.dense_bias,
        q_norm=_head_norm(config, family, query_size, "attention.q_layernorm") if norms else None,
        k_norm=_head_norm(config, family, key_size, "attention.k_layernorm") if norms else None,
        norm_wide=norms and family.qk_norm_width,
        norm_last=norms and family.qk_norm_last,
        clip=block.clip_qkv if block else None,
        sinks=family.sinks,
        causal=not (family.encoder or (block is not None and block.bidirectional)),
    )


def _head_norm(config: CheckpointConfig, family: Family, size: int, module: str) -> NormSpec:
    norm = _norm(config, family, size)(module)
    return replace(norm, weight=False) if family.qk_norm_bare else norm


def _position_bias(config: CheckpointConfig, family: Family, index: int) -> PositionBias | None:
    block = config.inflight
    if block is not None and block.relative_buckets and block.furthest_bucket:
        return BucketsSpec(block.relative_buckets, block.furthest_bucket, index if block.own_relative_bias else None)
    if config.position_embedding_type not in LINEAR_BIASES:
        return None
    steepest = (block.alibi_bias_max if block is not None else None) or 8.0
    return SlopesSpec(linear_slopes(config.num_attention_heads, steepest), family.alibi_rounded, family.encoder)


def _disentangled(config: CheckpointConfig) -> DisentangledSpec | None:
    block = config.inflight
    if block is None or block.relative_span is None:
        return None
    return DisentangledSpec(block.relative_span, block.furthest_bucket)


def _query_factors(config: CheckpointConfig, *, turns: bool) -> QueryScaleSpec | None:
    scale = config.inflight.query_scale if config.inflight else None
    if scale is None or (turns and scale.unrotated):
        return None
    return QueryScaleSpec(scale.factor, scale.length, scale.first)


def _latent_attention(config: CheckpointConfig, family: Family, optional: OptionalTensors, index: int) -> AttentionSpec:
    rank, plain, values = config.kv_lora_rank, config.qk_nope_head_dim, config.v_head_dim
    assert rank is not None and plain is not None and values is not None, "support.unsupported refuses it without"
    query_rank, rope = config.q_lora_rank, _rope(config, index, local=False)
    query_norm = None
    if query_rank is not None:
        query_norm = NormSpec("attention.q_a_layernorm", query_rank, _LATENT_EPSILON)
    return AttentionSpec(
        num_heads=config.num_attention_heads,
        num_kv_heads=1,
        head_size=config.head_size,
        scale=_query_scale(config) * (config.rotary_scaling.score_factor if config.rotary_scaling else 1.0),
        rope=rope,
        qkv_bias=optional.qkv_bias,
        dense_bias=optional.dense_bias,
        latent=LatentSpec(
            rank, plain, values, NormSpec("attention.kv_a_layernorm", rank, _LATENT_EPSILON), query_rank, query_norm
        ),
    )


def _query_scale(config: CheckpointConfig) -> float:
    if config.query_pre_attn_scalar is not None:
        return float(config.query_pre_attn_scalar**-0.5)
    return float((config.attention_multiplier or 1.0) * config.head_size**-0.5)


def _rope(config: CheckpointConfig, index: int, *, local: bool) -> RopeSpec | None:
    if config.position_embedding_type in (*LINEAR_BIASES, DISTANCES):
        return None
    if config.inflight is not None and index in (config.inflight.layers_without_rope or ()):
        return None
    dim = config.rotary_embedding_dim or config.head_size
    if local and config.rope_local_base_freq is not None:
        scaling = config.inflight.local_rotary_scaling if config.inflight else None
        return RopeSpec(dim, config.rope_local_base_freq, scaling)
    return RopeSpec(dim, config.rotary_base, config.rotary_scaling)


def _windows(config: CheckpointConfig, family: Family) -> tuple[int | None, ...]:
    """The window of each layer. The format leaves windows to the runtime, so that a checkpoint of another writer has
    those of its family where the family cannot do without, and none elsewhere.
    """
    block, count = config.inflight, config.num_hidden_layers
    if block is not None:
        types = block.layer_types or ("sliding_attention",) * count
        return tuple(block.sliding_window if kind == "sliding_attention" else None for kind in types)
    every = family.full_attention_every
    if every is None:
        return (None,) * count
    window = config.sliding_window or family.defaults["sliding_window"]
    period = config.sliding_window_pattern or (family.defaults[every] if isinstance(every, str) else every)
    return tuple(window if (layer + 1) % period else None for layer in range(count))


def _embedding_scale(config: CheckpointConfig, family: Family) -> float:
    """Gemma's is rounded to the model's type, as transformers rounds it."""
    if family.scaled_embedding:
        return float(np.float32(math.sqrt(config.hidden_size)).astype(numpy_dtype(config.dtype)))
    return config.embedding_multiplier or 1.0

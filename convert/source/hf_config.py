"""Reading the config.json of a Hugging Face model, as transformers would, without transformers.

Every value that is missing, of the wrong type or unsupported is noted and reading goes on, so that one message can
list them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inflight.convert.checkpoint.config import MAX_LAYERS, CheckpointConfig, InflightFacts, SourceFacts
from inflight.convert.checkpoint.inventory import OptionalTensors
from inflight.convert.checkpoint.support import ACT, ACTIVATIONS, DISTANCES, LINEAR_BIASES
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.pooling.kinds import pools, scores_by_tokens
from inflight.convert.families.pooling.reading import read_pooling, sees_all
from inflight.convert.source.hf_layers import LayerKinds, read_layer_kinds
from inflight.convert.source.hf_rope import Rope, read_rope
from inflight.convert.source.quantized.methods import quantization_problems
from inflight.dtypes import FLOAT_DTYPES


@dataclass(frozen=True, slots=True)
class ConfigReading:
    """What config.json says of a decoder, in the checkpoint's words, and every problem met on the way.

    The config holds only if there are none; `shapes_known` says whether its sizes can be trusted all the same. Its
    `inflight` block has what concerns layers, its source and generation are still to come. `dtype` None: config.json
    names none, and the one in `config` means nothing. `optional`: which of the optional tensors there are.
    """

    config: CheckpointConfig
    dtype: str | None
    optional: OptionalTensors
    problems: tuple[str, ...]
    shapes_known: bool


def read_model_config(raw: Mapping[str, Any], family: Family) -> ConfigReading:
    """What a config says, and everything about it that is missing, malformed or unsupported."""
    values = ConfigValues(decoder_config(raw, family), family.defaults)
    optional = OptionalTensors(
        qkv_bias=values.flag(family.qkv_bias),
        dense_bias=values.flag(family.dense_bias),
        mlp_bias=values.flag(family.mlp_bias),
        qk_norm=values.flag(family.qk_norm),
        head_bias=values.flag(family.head_bias),
        lm_head=not (pools(raw) or values.flag("tie_word_embeddings")),
    )
    config = _checkpoint_config(values, family, optional)
    if pools(raw) and config.inflight is not None:
        pooling, windows = read_pooling(values, raw, family), config.inflight.sliding_window is not None
        facts = {"pooling": pooling, "bidirectional": sees_all(values, raw, family, windows=windows) or None}
        config = config.model_copy(update={"inflight": config.inflight.model_copy(update=facts)})
        scaled = config.output_multiplier_scale not in (None, 1.0) or config.final_logit_softcapping is not None
        if scores_by_tokens(raw) and scaled:
            values.problems.append("scores by tokens are not supported of logits that are scaled or capped")
    elif family.bidirectional is not None:
        values.refuse(family.bidirectional, "a token that is generated sees those before it alone")
    _check_quantized(values, raw)
    return ConfigReading(config, _read_dtype(values), optional, tuple(values.problems), values.shapes_known)


def decoder_config(raw: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """The part of config.json that is about the decoder, under the keys that the family's columns have."""
    return family.decoder(raw)


def _checkpoint_config(values: ConfigValues, family: Family, optional: OptionalTensors) -> CheckpointConfig:
    heads, hidden = values.count("num_attention_heads"), values.count("hidden_size")
    max_positions = values.count("max_position_embeddings")
    biased = values.flag(family.alibi)
    rope = (
        Rope() if family.learned_positions or family.distances or biased else read_rope(values, family, max_positions)
    )
    num_layers = values.count("num_hidden_layers", most=MAX_LAYERS)
    head_size = values.count("head_dim", max(hidden // heads, 1))
    own = family.keys(values)
    common: dict[str, Any] = dict(
        architecture=family.architecture,
        dtype="float32",
        vocab_size=values.count("vocab_size"),
        max_position_embeddings=max_positions,
        hidden_size=hidden,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=values.count("num_key_value_heads", heads),
        head_size=head_size,
        intermediate_size=values.count("intermediate_size"),
        norm_epsilon=_read_epsilon(values, family),
        attn_bias=optional.qkv_bias,
        mlp_bias=optional.mlp_bias,
        qk_layernorm=optional.qk_norm,
        tie_word_embeddings=not optional.lm_head,
        **_position_keys(family, rope, head_size, biased=biased),
        **_layer_keys(read_layer_kinds(values, family, num_layers), family, rope, _block_facts(values, family)),
        hidden_act=_read_activation(values, family),
    )
    return CheckpointConfig(**{**common, **own})


def _read_epsilon(values: ConfigValues, family: Family) -> float:
    epsilon = family.norm_epsilon
    return values.number(epsilon, 1e-6) if isinstance(epsilon, str) else epsilon


def _position_keys(family: Family, rope: Rope, head_size: int, *, biased: bool) -> dict[str, Any]:
    if family.learned_positions:
        return {"position_embedding_type": "learned_absolute"}
    if family.distances:
        return {"position_embedding_type": DISTANCES}
    if biased:
        return {"position_embedding_type": LINEAR_BIASES[family.alibi_rounded]}
    return _rope_keys(rope, head_size)


def _rope_keys(rope: Rope, head_size: int) -> dict[str, Any]:
    types = {"longrope": "long_rope", "yarn": "yarn"}
    return {
        "position_embedding_type": types.get(rope.scaling.rope_type if rope.scaling else "", "rope_gpt_neox"),
        "rotary_base": rope.base,
        "rotary_scaling": rope.scaling,
        "rotary_embedding_dim": None if rope.share == 1.0 else int(head_size * rope.share),
        "rope_local_base_freq": rope.local_base,
    }


def _block_facts(values: ConfigValues, family: Family) -> dict[str, Any]:
    norms = "two_norms" if family.own_mlp_norm else "one_norm"
    return {"parallel": norms if values.flag(family.parallel) else None, **family.facts(values)}


def _layer_keys(kinds: LayerKinds, family: Family, rope: Rope, facts: dict[str, Any]) -> dict[str, Any]:
    """The `inflight` block so far; the format has names for windows in one family alone, whose readers want them."""
    block = InflightFacts(
        source=SourceFacts(model="", sha256=""),
        sliding_window=kinds.window,
        layer_types=kinds.types,
        layers_without_rope=kinds.without_rope,
        local_rotary_scaling=rope.local_scaling,
        **facts,
    )
    if not family.rope_by_layer_type:
        return {"inflight": block}
    return {"inflight": block, "sliding_window": kinds.window, "sliding_window_pattern": kinds.pattern}


def _read_activation(values: ConfigValues, family: Family) -> str:
    name, key = values.raw.get(family.activation, "silu"), values.named(family.activation)
    if name == "xielu" and ACT not in family.names:
        values.problems.append(f"{key} 'xielu' is not supported: the layers have no numbers for it")
        return "silu"
    if isinstance(name, str) and name in ACTIVATIONS:
        # What the format's readers call a gated product in stacks of experts.
        return "swiglu" if family.mixture is not None and name == "silu" else name
    given = values.raw.get(key, name)
    values.problems.append(f"{key} {given!r} is not supported (supported: {', '.join(ACTIVATIONS)})")
    return "silu"


def _check_quantized(values: ConfigValues, raw: Mapping[str, Any]) -> None:
    if problems := quantization_problems(raw):
        values.shapes_known = False
        values.problems.extend(problems)


def _read_dtype(values: ConfigValues) -> str | None:
    dtype = values.raw.get("dtype") or values.raw.get("torch_dtype")
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in FLOAT_DTYPES:
        values.problems.append(f"dtype {name!r} is not supported (supported: {', '.join(FLOAT_DTYPES)})")
    return name

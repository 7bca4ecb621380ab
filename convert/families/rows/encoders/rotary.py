"""Encoders of BERT's kind that turn queries and keys in place of adding positions: Nomic (Nussbaum et al., 2024), GTE
(Zhang et al., 2024) and Jina's third (Sturua et al., 2024); and Jina's second, whose attention has linear biases
(Günther et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.families.fused import gate_up, qkv_in_turn, up_gate
from inflight.convert.families.names import Names, parts
from inflight.convert.families.pooling.kinds import JINA2
from inflight.convert.families.rows.encoders.bert import BERT_DEFAULTS, IGNORED, POOLER, bare, bert_names
from inflight.convert.families.rows.encoders.keys import refuse_other, token_types
from inflight.convert.families.rows.keys import Raw, head_share, refuse_other_head_size, under_names

GTE_THETA = 160000.0
_LAYERS = "encoder.layers.{layer}."
_GTE_LAYER = "new.encoder.layer.{layer}."
_GTE_QKV, _GTE_UP_GATE = f"{_GTE_LAYER}attention.qkv_proj", f"{_GTE_LAYER}mlp.up_gate_proj"
# Keys of Nomic's own config that the class of transformers has not.
_NOMIC_FIXED = {
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False),
    **dict.fromkeys(("prenorm", "parallel_block", "use_rms_norm", "rotary_emb_interleaved", "causal"), False),
    "rotary_emb_fraction": 1.0,
    "num_experts": 0,
}


def _turning_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other_head_size(values)
    values.refuse("is_decoder", "an encoder's tokens see all others")
    return {}


def nomic_config(raw: Raw) -> Raw:
    """Its own config has other names; it knows as many positions as it was trained with."""
    named = under_names(
        raw,
        hidden_size="n_embd",
        num_hidden_layers="n_layer",
        num_attention_heads="n_head",
        intermediate_size="n_inner",
        max_position_embeddings="n_positions",
        layer_norm_eps="layer_norm_epsilon",
        hidden_act="activation_function",
        rope_theta="rotary_emb_base",
    )
    trained, known = raw.get("max_trained_positions"), named.get("max_position_embeddings")
    if isinstance(trained, int) and isinstance(known, int):
        named = {**named, "max_position_embeddings": min(trained, known)}
    return {**named, "num_key_value_heads": None}


def nomic_keys(values: ConfigValues) -> dict[str, Any]:
    for key, known in _NOMIC_FIXED.items():
        refuse_other(values, key, known, f"this encoder has {known!r}")
    for key in ("rotary_scaling_factor", "rotary_emb_scale_base"):
        values.refuse(key, "rotation is not scaled")
    return _turning_keys(values)


def gte_config(raw: Raw) -> Raw:
    """What its own code calls ntk are frequencies of a greater base, all of them lower by one factor."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters")
    named = {**raw, "num_key_value_heads": None}
    if (
        not isinstance(rope, dict)
        or rope.get("rope_type", rope.get("type")) != "ntk"
        or rope.get("mixed_b") is not None
    ):
        return named
    size = head_share(raw)
    factor: Any = rope.get("factor")
    theta: Any = rope.get("rope_theta", raw.get("rope_theta", GTE_THETA))
    if not isinstance(size, int) or not all(isinstance(each, int | float) and each > 0 for each in (factor, theta)):
        return named
    scaled = {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / size)}
    return {**named, "rope_scaling": None, "rope_parameters": scaled}


def gte_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other(values, "position_embedding_type", "rope", "queries and keys turn")
    refuse_other(values, "layer_norm_type", "layer_norm", "norms have means and biases")
    values.refuse("logn_attention_scale", "attention has one scale at all lengths")
    return _turning_keys(values)


def gte_facts(values: ConfigValues) -> dict[str, Any]:
    """Some tell no kinds of tokens apart."""
    return token_types(values) if values.raw.get("type_vocab_size") != 0 else {}


def jina2_config(raw: Raw) -> Raw:
    """The activation goes by the name of the MLP, whatever hidden_act says."""
    kind = raw.get("feed_forward_type")
    return {**raw, "num_key_value_heads": None, "hidden_act": {"geglu": "gelu", "reglu": "relu"}.get(str(kind), kind)}


def jina2_keys(values: ConfigValues) -> dict[str, Any]:
    refuse_other(values, "position_embedding_type", "alibi", "attention has linear biases")
    return _turning_keys(values)


def jina_config(raw: Raw) -> Raw:
    return {**raw, "num_key_value_heads": None}


def jina_keys(values: ConfigValues) -> dict[str, Any]:
    values.refuse("lora_adaptations", "adapters of single tasks are not read")
    return _turning_keys(values)


def _names(prefix: str, attention: str, mlp: Names, *, projection: str = "out_proj") -> Names:
    layer, embeddings = f"{prefix}{_LAYERS}", f"{prefix}embeddings."
    return {
        "vocab_embedding": (f"{embeddings}word_embeddings",),
        "token_type_embedding": (f"{embeddings}token_type_embeddings",),
        "ln_embed": (f"{prefix}emb_ln",),
        "attention.qkv": parts(f"{layer}{attention}.Wqkv", "q", "k", "v"),
        "attention.dense": (f"{layer}{attention}.{projection}",),
        "post_layernorm": (f"{layer}norm1",),
        **{module: tuple(f"{layer}mlp.{each}" for each in names) for module, names in mlp.items()},
        "post_feedforward_layernorm": (f"{layer}norm2",),
    }


_GTE_NAMES: Names = {
    "vocab_embedding": ("new.embeddings.word_embeddings",),
    "token_type_embedding": ("new.embeddings.token_type_embeddings",),
    "ln_embed": ("new.embeddings.LayerNorm",),
    "attention.qkv": parts(_GTE_QKV, "q", "k", "v"),
    "attention.dense": (f"{_GTE_LAYER}attention.o_proj",),
    "post_layernorm": (f"{_GTE_LAYER}attn_ln",),
    "mlp.fc": parts(_GTE_UP_GATE, "gate"),
    "mlp.gate": parts(_GTE_UP_GATE, "up"),
    "mlp.proj": (f"{_GTE_LAYER}mlp.down_proj",),
    "post_feedforward_layernorm": (f"{_GTE_LAYER}mlp_ln",),
    "classifier.dense": ("new.pooler.dense",),
    "classifier.out": ("classifier",),
}
_JINA2_LAYER = "bert.encoder.layer.{layer}."
_JINA2_GATE_UP = f"{_JINA2_LAYER}mlp.gated_layers"
_JINA2_NAMES: Names = {
    **{module: names for module, names in bert_names("bert.").items() if module != "position_embedding"},
    "mlp.fc": parts(_JINA2_GATE_UP, "gate"),
    "mlp.gate": parts(_JINA2_GATE_UP, "up"),
    "mlp.proj": (f"{_JINA2_LAYER}mlp.wo",),
    "post_feedforward_layernorm": (f"{_JINA2_LAYER}mlp.layernorm",),
}
_TURNING: Mapping[str, Any] = {key: value for key, value in BERT_DEFAULTS.items() if key != "vocab_size"}

_turning = partial(
    Family,
    norm="layer",
    norm_epsilon="layer_norm_eps",
    embedding_norm=True,
    post_norms=True,
    encoder=True,
    carries_code=True,
    facts=token_types,
    classifier_activation="tanh",
    ignored=(*IGNORED, *POOLER, "*.inv_freq"),
)
_gte = partial(
    _turning,
    qkv_bias=True,
    dense_bias=True,
    mlp_proj_bias=True,
    decoder=gte_config,
    keys=gte_keys,
    facts=gte_facts,
    names=_GTE_NAMES,
    # Of weights for single tokens, which embeddings do without.
    ignored=(*IGNORED, *POOLER, "*.inv_freq", "classifier.*"),
    fused={_GTE_QKV: qkv_in_turn, _GTE_UP_GATE: up_gate},
    renamed=(("gte.", "new."), *bare("new.", "embeddings", "encoder", "pooler")),
    defaults={
        **_TURNING,
        "vocab_size": 250048,
        "max_position_embeddings": 8192,
        "type_vocab_size": 1,
        "rope_theta": GTE_THETA,
    },
)

ROTARY = (
    _turning(
        "NomicBertModel",
        "nomic_bert",
        decoder=nomic_config,
        keys=nomic_keys,
        names={
            **_names("nomic_bert.", "attn", {"mlp.fc": ("fc12",), "mlp.gate": ("fc11",), "mlp.proj": ("fc2",)}),
            "classifier.dense": ("nomic_bert.pooler.dense",),
            "classifier.out": ("classifier",),
        },
        fused={f"nomic_bert.{_LAYERS}attn.Wqkv": qkv_in_turn},
        renamed=bare("nomic_bert.", "embeddings", "emb_ln", "encoder", "pooler"),
        defaults={
            **_TURNING,
            "vocab_size": 30528,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rope_theta": 1000.0,
        },
    ),
    _gte("GteModel", "gte"),
    _gte("NewModel", "new", own_code=True),
    _turning(
        "JinaBertModel",
        JINA2,
        own_code=True,
        qkv_bias=True,
        dense_bias=True,
        mlp_proj_bias=True,
        alibi=True,
        decoder=jina2_config,
        keys=jina2_keys,
        names=_JINA2_NAMES,
        fused={_JINA2_GATE_UP: gate_up},
        renamed=bare("bert.", "embeddings", "encoder", "pooler"),
        defaults={**_TURNING, "vocab_size": 30528, "max_position_embeddings": 8192, "feed_forward_type": "geglu"},
    ),
    _turning(
        "JinaEmbeddingsV3Model",
        "jina_embeddings_v3",
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        gated_mlp=False,
        decoder=jina_config,
        keys=jina_keys,
        names={
            **_names("roberta.", "mixer", {"mlp.fc": ("fc1",), "mlp.proj": ("fc2",)}),
            "classifier.dense": ("classifier.dense",),
            "classifier.out": ("classifier.out_proj",),
        },
        fused={f"roberta.{_LAYERS}mixer.Wqkv": qkv_in_turn},
        renamed=bare("roberta.", "embeddings", "emb_ln", "encoder", "pooler"),
        defaults={
            **_TURNING,
            "vocab_size": 250002,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 8194,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "rope_theta": 20000.0,
        },
    ),
)

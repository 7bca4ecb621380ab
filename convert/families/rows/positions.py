"""Decoders with a table of learned positions, as GPT-2 has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.families.family import Family
from inflight.convert.families.fused import qkv_by_head, qkv_in_turn, skipping
from inflight.convert.families.names import Names, parts
from inflight.convert.families.rows.parallel_keys import gpt2_config
from inflight.convert.families.rows.positions_keys import (
    bigcode_config,
    biogpt_config,
    biogpt_keys,
    gpt2_keys,
    gpt_neo_config,
    gpt_neo_keys,
    opt_config,
    opt_keys,
)

_H = "transformer.h.{layer}."
_QKV = f"{_H}attn.c_attn"
_GPT2_NAMES: Names = {
    "vocab_embedding": ("transformer.wte",),
    "position_embedding": ("transformer.wpe",),
    "input_layernorm": (f"{_H}ln_1",),
    "attention.qkv": parts(_QKV, "q", "k", "v"),
    "attention.dense": (f"{_H}attn.c_proj",),
    "post_layernorm": (f"{_H}ln_2",),
    "mlp.fc": (f"{_H}mlp.c_fc",),
    "mlp.proj": (f"{_H}mlp.c_proj",),
    "ln_f": ("transformer.ln_f",),
    "lm_head": ("lm_head",),
}
# Files without the name of the model in front, as the first ones are.
_BARE = tuple((name, f"transformer.{name}") for name in ("wte.", "wpe.", "h.", "ln_f."))
_MASKS = ("*.attn.bias", "*.attn.masked_bias", "*.attn.attention.bias", "*.attn.attention.masked_bias")


def _opt_names(model: str, final: str, head: str) -> Names:
    """The names of OPT, whose layers are those of fairseq, below the module `model`."""
    layer = f"{model}.layers.{{layer}}."
    attention = f"{layer}self_attn."
    return {
        "vocab_embedding": (f"{model}.embed_tokens",),
        "position_embedding": parts(f"{model}.embed_positions", "used"),
        "input_layernorm": (f"{layer}self_attn_layer_norm",),
        "attention.qkv": (f"{attention}q_proj", f"{attention}k_proj", f"{attention}v_proj"),
        "attention.dense": (f"{attention}out_proj",),
        "post_layernorm": (f"{layer}final_layer_norm",),
        "mlp.fc": (f"{layer}fc1",),
        "mlp.proj": (f"{layer}fc2",),
        "ln_f": (f"{model}.{final}",),
        "lm_head": (head,),
    }


_GPT_BIGCODE_DEFAULTS: Mapping[str, Any] = {
    "activation_function": "gelu_pytorch_tanh",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
_GPT_NEO_NAMES: Names = {
    **_GPT2_NAMES,
    "attention.qkv": tuple(f"{_H}attn.attention.{each}_proj" for each in "qkv"),
    "attention.dense": (f"{_H}attn.attention.out_proj",),
}

POSITIONS = (
    Family(
        architecture="GPT2LMHeadModel",
        model_type="gpt2",
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        activation="activation_function",
        learned_positions=True,
        norm="layer",
        norm_epsilon="layer_norm_epsilon",
        gated_mlp=False,
        decoder=gpt2_config,
        keys=gpt2_keys,
        names=_GPT2_NAMES,
        fused={_QKV: qkv_in_turn},
        transposed=(_QKV, f"{_H}attn.c_proj", f"{_H}mlp.c_fc", f"{_H}mlp.c_proj"),
        renamed=_BARE,
        ignored=_MASKS,
        defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
    Family(
        architecture="GPTBigCodeForCausalLM",
        model_type="gpt_bigcode",
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        activation="activation_function",
        learned_positions=True,
        norm="layer",
        norm_epsilon="layer_norm_epsilon",
        gated_mlp=False,
        decoder=bigcode_config,
        keys=gpt2_keys,
        names=_GPT2_NAMES,
        # With one head of keys for all queries, by head is in turn.
        fused={_QKV: qkv_by_head},
        ignored=_MASKS,
        defaults=_GPT_BIGCODE_DEFAULTS,
    ),
    Family(
        architecture="GPTNeoForCausalLM",
        model_type="gpt_neo",
        dense_bias=True,
        mlp_bias=True,
        activation="activation_function",
        sliding_window="listed",
        learned_positions=True,
        norm="layer",
        norm_epsilon="layer_norm_epsilon",
        gated_mlp=False,
        decoder=gpt_neo_config,
        keys=gpt_neo_keys,
        names=_GPT_NEO_NAMES,
        ignored=_MASKS,
        defaults={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    ),
    Family(
        architecture="OPTForCausalLM",
        model_type="opt",
        qkv_bias="enable_bias",
        dense_bias="enable_bias",
        mlp_bias="enable_bias",
        activation="activation_function",
        learned_positions=True,
        norm="layer",
        norm_epsilon=1e-5,
        gated_mlp=False,
        decoder=opt_config,
        keys=opt_keys,
        names=_opt_names("model.decoder", "final_layer_norm", "lm_head"),
        fused={"model.decoder.embed_positions": skipping(2)},
        renamed=(("decoder.", "model.decoder."),),
        defaults={"activation_function": "relu", "enable_bias": True, "tie_word_embeddings": True},
    ),
    Family(
        architecture="BioGptForCausalLM",
        model_type="biogpt",
        qkv_bias=True,
        dense_bias=True,
        mlp_bias=True,
        learned_positions=True,
        norm="layer",
        norm_epsilon=1e-5,
        gated_mlp=False,
        decoder=biogpt_config,
        keys=biogpt_keys,
        names=_opt_names("biogpt", "layer_norm", "output_projection"),
        fused={"biogpt.embed_positions": skipping(2)},
        tied="output_projection.weight",
        defaults={"hidden_act": "gelu", "scale_embedding": True, "tie_word_embeddings": True},
    ),
)

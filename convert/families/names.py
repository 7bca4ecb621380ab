"""Modules of the checkpoint by the names that Hugging Face models have for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Names = Mapping[str, tuple[str, ...]]


def parts(module: str, *names: str) -> tuple[str, ...]:
    """The modules that `Family.fused` makes of one: "qkv_proj[q]" of "qkv_proj" and "q"."""
    return tuple(f"{module}[{name}]" for name in names)


@dataclass(frozen=True, slots=True)
class PositionRows:
    """Of what the rows for distances of disentangled attention are made. `table`: the module of the table of distances,
    `norm` that of its LayerNorm, None: there is none. `terms`: modules whose products with the normed table queries
    meet, and keys, {layer} in place of a number; None: zeros. `shared`: the layers' attention has these modules too.
    `unbiased`: those of the terms that have no bias. `rows`: what each matrix of what is computed is called, with
    {layer} and {expert}.
    """

    table: str
    norm: str | None
    terms: tuple[str | None, str | None]
    shared: bool
    rows: str
    unbiased: tuple[str, ...] = ()


# Module of the checkpoint -> Hugging Face modules, concatenated in this order. {layer} counts over the whole model.
DECODER_NAMES: Names = {
    "vocab_embedding": ("model.embed_tokens",),
    "input_layernorm": ("model.layers.{layer}.input_layernorm",),
    "attention.qkv": (
        "model.layers.{layer}.self_attn.q_proj",
        "model.layers.{layer}.self_attn.k_proj",
        "model.layers.{layer}.self_attn.v_proj",
    ),
    "attention.q_layernorm": ("model.layers.{layer}.self_attn.q_norm",),
    "attention.k_layernorm": ("model.layers.{layer}.self_attn.k_norm",),
    "attention.dense": ("model.layers.{layer}.self_attn.o_proj",),
    "post_layernorm": ("model.layers.{layer}.post_attention_layernorm",),
    # The checkpoint calls the activated branch `fc`, and the branch that multiplies it `gate`.
    "mlp.fc": ("model.layers.{layer}.mlp.gate_proj",),
    "mlp.gate": ("model.layers.{layer}.mlp.up_proj",),
    "mlp.proj": ("model.layers.{layer}.mlp.down_proj",),
    "ln_f": ("model.norm",),
    "lm_head": ("lm_head",),
}
# Norms before and after attention and MLP, as Gemma has them since its second version; or after them alone.
SANDWICH_NAMES: Names = {
    **DECODER_NAMES,
    "pre_feedforward_layernorm": ("model.layers.{layer}.pre_feedforward_layernorm",),
    "post_feedforward_layernorm": ("model.layers.{layer}.post_feedforward_layernorm",),
}
# An MLP without a gate, whose first product is called up_proj.
UNGATED_NAMES: Names = {**DECODER_NAMES, "mlp.fc": ("model.layers.{layer}.mlp.up_proj",)}
FC_NAMES: Names = {
    **DECODER_NAMES,
    "mlp.fc": ("model.layers.{layer}.mlp.fc1",),
    "mlp.proj": ("model.layers.{layer}.mlp.fc2",),
}
STARCODER2_NAMES: Names = {
    **DECODER_NAMES,
    "mlp.fc": ("model.layers.{layer}.mlp.c_fc",),
    "mlp.proj": ("model.layers.{layer}.mlp.c_proj",),
}
# One matrix for gate and up, as Phi-3 and GLM have it.
GATE_UP = "model.layers.{layer}.mlp.gate_up_proj"
GATE_UP_NAMES: Names = {**DECODER_NAMES, "mlp.fc": parts(GATE_UP, "gate"), "mlp.gate": parts(GATE_UP, "up")}
# Tables that old versions of transformers saved; they follow from the config.
ROTARY_TABLES = ("model.rotary_emb.inv_freq", "model.layers.*.self_attn.rotary_emb.inv_freq")


def below(prefix: str, names: Names, head: str = "lm_head") -> Names:
    """The same names with `prefix` in place of "model." and `head` as the projection."""
    return {
        module: tuple(prefix + each.removeprefix("model.") if each.startswith("model.") else head for each in each_of)
        for module, each_of in names.items()
    }

"""llama.cpp's names of tensors and of architectures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inflight.convert.families.family import Family
from inflight.convert.families.table import family_of

# Module of the checkpoint -> llama.cpp's, as many as the family's names have. {layer} counts over the whole model.
_MODULES: Mapping[str, tuple[str, ...]] = {
    "vocab_embedding": ("token_embd",),
    "input_layernorm": ("blk.{layer}.attn_norm",),
    "attention.qkv": ("blk.{layer}.attn_q", "blk.{layer}.attn_k", "blk.{layer}.attn_v"),
    "attention.q_layernorm": ("blk.{layer}.attn_q_norm",),
    "attention.k_layernorm": ("blk.{layer}.attn_k_norm",),
    "attention.dense": ("blk.{layer}.attn_output",),
    "post_layernorm": ("blk.{layer}.ffn_norm",),
    "mlp.fc": ("blk.{layer}.ffn_gate",),
    "mlp.gate": ("blk.{layer}.ffn_up",),
    "mlp.proj": ("blk.{layer}.ffn_down",),
    "ln_f": ("output_norm",),
    "lm_head": ("output",),
}
_SANDWICH: Mapping[str, tuple[str, ...]] = {
    "post_layernorm": ("blk.{layer}.post_attention_norm",),
    "pre_feedforward_layernorm": ("blk.{layer}.ffn_norm",),
    "post_feedforward_layernorm": ("blk.{layer}.post_ffw_norm",),
}
# Factors of the rotary frequencies, which the config takes.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of llama.cpp's architectures. `interleaved`: it turns neighbouring elements of a head, so that its converter
    put the rows of queries and keys in that order.
    """

    name: str
    family: Family
    interleaved: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    row.name: row
    for row in (
        Architecture("llama", family_of("LlamaForCausalLM"), interleaved=True),
        Architecture("qwen2", family_of("Qwen2ForCausalLM")),
        Architecture("qwen3", family_of("Qwen3ForCausalLM")),
        Architecture("gemma2", family_of("Gemma2ForCausalLM")),
        Architecture("gemma3", family_of("Gemma3ForCausalLM")),
        Architecture("granite", family_of("GraniteForCausalLM"), interleaved=True),
        Architecture("smollm3", family_of("SmolLM3ForCausalLM"), interleaved=True),
        Architecture("stablelm", family_of("StableLmForCausalLM")),
        Architecture("starcoder2", family_of("Starcoder2ForCausalLM")),
    )
}


def hugging_face_names(family: Family, num_layers: int) -> Iterator[tuple[str, str]]:
    """(llama.cpp's module, Hugging Face's) for every module that a model of the family may have."""
    modules = {**_MODULES, **(_SANDWICH if family.sandwich_norms else {})}
    if not family.gated_mlp:
        modules["mlp.fc"] = modules.pop("mlp.gate")
    for module, names in modules.items():
        for theirs, ours in zip(names, family.names[module], strict=True):
            layers = range(num_layers) if "{layer}" in theirs else range(1)
            yield from ((theirs.format(layer=layer), ours.format(layer=layer)) for layer in layers)

"""llama.cpp's names of tensors and of architectures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    # Of experts these are stacks.
    "experts.router": ("blk.{layer}.ffn_gate_inp",),
    "experts.fc": ("blk.{layer}.ffn_up_exps", "blk.{layer}.ffn_gate_exps"),
    "experts.proj": ("blk.{layer}.ffn_down_exps",),
    "experts.shared_expert_gate": ("blk.{layer}.ffn_gate_inp_shexp",),
    "mlp.shared_expert.fc": ("blk.{layer}.ffn_gate_shexp",),
    "mlp.shared_expert.gate": ("blk.{layer}.ffn_up_shexp",),
    "mlp.shared_expert.proj": ("blk.{layer}.ffn_down_shexp",),
    "attention.q": ("blk.{layer}.attn_q",),
    "attention.q_a": ("blk.{layer}.attn_q_a",),
    "attention.q_a_layernorm": ("blk.{layer}.attn_q_a_norm",),
    "attention.q_b": ("blk.{layer}.attn_q_b",),
    "attention.kv_a": ("blk.{layer}.attn_kv_a_mqa",),
    "attention.kv_a_layernorm": ("blk.{layer}.attn_kv_a_norm",),
}
_SANDWICH: Mapping[str, tuple[str, ...]] = {
    "post_layernorm": ("blk.{layer}.post_attention_norm",),
    "pre_feedforward_layernorm": ("blk.{layer}.ffn_norm",),
    "post_feedforward_layernorm": ("blk.{layer}.post_ffw_norm",),
}
_GPT_OSS: Mapping[str, tuple[str, ...]] = {"post_layernorm": ("blk.{layer}.post_attention_norm",)}
# Tensors that are no weight or bias of the module here: llama.cpp's name -> the module, and the kind.
_KINDS: Mapping[str, tuple[str, str]] = {
    "blk.{layer}.attn_sinks.weight": ("attention", "sinks"),
    "blk.{layer}.exp_probs_b.bias": ("experts.router", "e_score_correction_bias"),
}
# Factors of the rotary frequencies, which the config takes.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of llama.cpp's architectures. `interleaved`: it turns neighbouring elements of a head, so that its converter
    put the rows of queries and keys in that order. `modules`: what it names in another way. `variant`: a key of the
    metadata below its name, and the value (None: any but 0), by which a file is of this family and not of one that
    comes later.
    """

    name: str
    family: Family
    interleaved: bool = False
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variant: tuple[str, int | None] | None = None

    def describes(self, metadata: Mapping[str, Any]) -> bool:
        if self.variant is None:
            return True
        key, wanted = self.variant
        value = metadata.get(f"{self.name}.{key}")
        return bool(value) if wanted is None else value == wanted


_SIGMOID = 2  # llama.cpp's expert_gating_func
ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("llama", family_of("MixtralForCausalLM"), interleaved=True, variant=("expert_count", None)),
    Architecture("llama", family_of("LlamaForCausalLM"), interleaved=True),
    Architecture("qwen2", family_of("Qwen2ForCausalLM")),
    Architecture("qwen2moe", family_of("Qwen2MoeForCausalLM")),
    Architecture("qwen3", family_of("Qwen3ForCausalLM")),
    Architecture("qwen3moe", family_of("Qwen3MoeForCausalLM")),
    Architecture("gemma2", family_of("Gemma2ForCausalLM"), modules=_SANDWICH),
    Architecture("gemma3", family_of("Gemma3ForCausalLM"), modules=_SANDWICH),
    Architecture("granite", family_of("GraniteForCausalLM"), interleaved=True),
    Architecture(
        "granitemoe",
        family_of("GraniteMoeSharedForCausalLM"),
        interleaved=True,
        variant=("expert_shared_feed_forward_length", None),
    ),
    Architecture("granitemoe", family_of("GraniteMoeForCausalLM"), interleaved=True),
    Architecture("smollm3", family_of("SmolLM3ForCausalLM"), interleaved=True),
    Architecture("stablelm", family_of("StableLmForCausalLM")),
    Architecture("starcoder2", family_of("Starcoder2ForCausalLM")),
    Architecture("olmoe", family_of("OlmoeForCausalLM")),
    Architecture("gpt-oss", family_of("GptOssForCausalLM"), modules=_GPT_OSS),
    Architecture("deepseek2", family_of("DeepseekV3ForCausalLM"), variant=("expert_gating_func", _SIGMOID)),
    Architecture("deepseek2", family_of("DeepseekV2ForCausalLM")),
)
KNOWN = tuple(dict.fromkeys(row.name for row in ARCHITECTURES))


def hugging_face_names(architecture: Architecture, num_layers: int) -> Iterator[tuple[str, str]]:
    """(llama.cpp's module, Hugging Face's) for every module that a model of the family may have, those of experts with
    {expert} in place of a number; and (tensor, tensor) where the kinds differ.
    """
    family, modules = architecture.family, {**_MODULES, **architecture.modules}
    if not family.gated_mlp:
        modules["mlp.fc"] = modules.pop("mlp.gate")
    pairs = [
        pair
        for module, names in modules.items()
        if module in family.names
        for pair in zip(names, family.names[module], strict=True)
    ]
    pairs += [
        (theirs, f"{family.names[module][0]}.{kind}")
        for theirs, (module, kind) in _KINDS.items()
        if module in family.names
    ]
    for theirs, ours in pairs:
        layers = range(num_layers) if "{layer}" in theirs else range(1)
        yield from ((theirs.format(layer=layer), ours.format(layer=layer, expert="{expert}")) for layer in layers)

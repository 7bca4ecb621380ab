"""Tiny random Hugging Face models of every supported family, written to disk as a user's model would be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from tests.models.families.further import randomize
from tests.models.families.further_families import FURTHER
from tests.models.families.mixtures import LATENT, MIXTURE_CONFIGS, MIXTURES, SHARED_OUT_HEADS, random_mixture

_CONFIGS = {
    **MIXTURE_CONFIGS,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "ministral": MinistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
    "granite": GraniteConfig,
    "smollm3": SmolLM3Config,
    "stablelm": StableLmConfig,
    "starcoder2": Starcoder2Config,
}
# Families whose layers differ: every so many layers one sees all positions, the others a window.
_MIXED = {"ministral": 2, "gemma2": 2, "gemma3": 3}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}


@dataclass(frozen=True)
class Shape:
    """The shape of a tiny model; every number is free, so that nothing relies on powers of two."""

    family: str = "llama"
    head_size: int = 24
    num_kv_heads: int = 2
    queries_per_kv: int = 3
    num_layers: int = 2
    hidden_size: int = 72
    intermediate_size: int = 104
    vocab_size: int = 257
    max_positions: int = 512
    tied: bool = False
    sliding_window: int | None = None
    rope: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def num_heads(self) -> int:
        return self.num_kv_heads * self.queries_per_kv

    @property
    def mixed(self) -> bool:
        """Layers of two kinds, of which one has the window."""
        return self.family in _MIXED and self.sliding_window is not None

    def config(self) -> Any:
        values: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_size,
            "max_position_embeddings": self.max_positions,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            **self.extra,
        }
        if self.rope is not None:
            values["rope_parameters"] = self.rope
        if self.family in FURTHER:
            return FURTHER[self.family].config(values)
        if self.family in ("mistral", "starcoder2", "mixtral") or self.mixed:
            values["sliding_window"] = self.sliding_window
        if self.mixed:
            values.setdefault("layer_types", _layer_types(self.num_layers, _MIXED[self.family]))
        if self.family in ("qwen2", "qwen3") and self.sliding_window is not None:
            switch = {"use_sliding_window": True, "sliding_window": self.sliding_window, "max_window_layers": 0}
            values = switch | values
        return _CONFIGS[self.family](**values)


def _layer_types(num_layers: int, every: int) -> list[str]:
    return ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(num_layers)]


def eager(family: str) -> dict[str, str]:
    """Arguments for attention and experts without kernels of their own, which take no odd sizes, nor float64."""
    experts = {"experts_implementation": "eager"} if family in MIXTURES else {}
    return {"attn_implementation": "eager", **experts}


def random_model(shape: Shape, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of `shape` whose weights, norms and biases are all random, on a scale that keeps logits lively."""
    torch.manual_seed(seed)
    # Gemma adds 1 to the weights of its norms, and multiplies its embeddings.
    gemma = shape.family.startswith("gemma")
    if shape.family in FURTHER:
        model = FURTHER[shape.family].model(shape.config())
        randomize(model)
    else:
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.float32, **eager(shape.family))
    with torch.no_grad():
        for name, parameter in model.named_parameters() if shape.family not in FURTHER else ():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_((0.0 if gemma else 1.0) + 0.2 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_((0.05 if "e_score" in name else 0.5) * torch.randn_like(parameter))
            elif "embed" in name:
                parameter.copy_(
                    torch.randn_like(parameter) * (shape.hidden_size**-0.5 * 3 if shape.tied or gemma else 1.0)
                )
            else:
                # Some of what gpt-oss clamps is beyond its limits.
                size = 6.0 if shape.family == "gpt_oss" and "gate_up" in name else 1.5
                parameter.copy_(torch.randn_like(parameter) * size * parameter.shape[-1] ** -0.5)
        for name, buffer in model.named_buffers():
            if "e_score" in name:
                buffer.copy_(0.1 * torch.randn_like(buffer))
    for parameter in model.parameters():  # not model.to(), which would round the rotary frequencies too
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def save_random_model(directory: Path, shape: Shape, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Write a random model to `directory` and return it, for use as the oracle."""
    model = random_model(shape, seed, dtype)
    model.save_pretrained(directory)
    return model


def random_shape(rng: Any, family: str) -> Shape:
    """A random odd shape of `family`."""
    if family in FURTHER:
        return Shape(family=family, **FURTHER[family].sizes(rng))
    pick = rng.choice
    windowed = family in ("mistral", "starcoder2", "mixtral", *_MIXED) or (
        family in ("qwen2", "qwen3") and rng.random() < 0.3
    )
    window = int(rng.integers(5, 40)) if windowed else None
    rope = [None, LLAMA3_ROPE, LINEAR_ROPE][int(rng.integers(3))] if family == "llama" else None
    num_kv_heads, queries_per_kv = int(pick([1, 2, 3])), int(pick([1, 3, 7]))
    num_heads = num_kv_heads * queries_per_kv
    if family in LATENT:
        num_kv_heads, queries_per_kv = num_heads, 1
    # transformers' Llama insists on a multiple of the number of heads, and its StableLM on heads that make it up.
    head_size = int(pick([24, 48, 80, 128]))
    hidden_size = num_heads * (1 + int(pick([40, 72, 96, 136])) // num_heads)
    if family == "stablelm" or family in SHARED_OUT_HEADS:
        head_size = int(pick([8, 16, 24]))
        hidden_size = num_heads * head_size
    return Shape(
        family=family,
        head_size=head_size,
        num_kv_heads=num_kv_heads,
        queries_per_kv=queries_per_kv,
        num_layers=_MIXED.get(family, 1) + 1,
        hidden_size=hidden_size,
        intermediate_size=int(pick([56, 104, 200])),
        vocab_size=int(pick([257, 1001])),
        tied=bool(rng.random() < 0.5),
        sliding_window=window,
        rope=rope,
        extra=_random_extra(rng, family),
    )


def _random_extra(rng: Any, family: str) -> dict[str, Any]:
    """What a family has beyond the others: soft caps small enough to bend, scales, layers without rotary embedding."""
    flag = bool(rng.random() < 0.5)
    if family in MIXTURES:
        return random_mixture(rng, family)
    if family == "granite":
        scales = {name: float(rng.uniform(0.1, 3)) for name in ("embedding_multiplier", "residual_multiplier")}
        scales |= {"attention_multiplier": float(rng.uniform(0.02, 0.3)), "logits_scaling": float(rng.uniform(0.1, 9))}
        return scales | {"attention_bias": flag, "mlp_bias": flag}
    if family == "smollm3":
        return {"no_rope_layers": [1, 0] if flag else [0, 1]}
    if family == "stablelm":
        return {"use_qkv_bias": flag, "rope_parameters": {"partial_rotary_factor": 0.25 if flag else 0.75}}
    if family == "starcoder2":
        return {"use_bias": flag}
    if not family.startswith("gemma"):
        return {}
    extra: dict[str, Any] = {
        "query_pre_attn_scalar": int(rng.integers(10, 200)),
        "final_logit_softcapping": float(rng.uniform(2, 10)),
        "attention_bias": flag,
    }
    if family == "gemma2":
        return extra | {"attn_logit_softcapping": float(rng.uniform(1, 5))}
    local, full = ({"rope_type": "default", "rope_theta": float(base)} for base in rng.uniform(100, 1e6, 2))
    return extra | {"rope_parameters": {"sliding_attention": local, "full_attention": full}}

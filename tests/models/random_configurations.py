"""Random configurations of a model, its conversion and its engine: whatever a user may ask for, odd sizes above all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inflight.build.recipe import BuildRecipe
from inflight.build.registry import make_recipe
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from tests.models.random_models import Shape, random_shape
from tests.models.ropes import ROPE_KINDS, random_rope
from tests.models.schemes import quantizing

MAX_SEQ_LEN = 64
DTYPES = ("float32", "float16", "bfloat16")
# Keys of configs that add biases, norms or other layers, by family; each is there or not.
_SWITCHES: dict[str, tuple[str, ...]] = {
    "llama": ("attention_bias", "mlp_bias"),
    "qwen3": ("attention_bias",),
    "gemma2": ("attention_bias",),
    "gemma3": ("attention_bias",),
    "granite": ("attention_bias", "mlp_bias"),
    "smollm3": ("attention_bias", "mlp_bias"),
    "stablelm": ("use_qkv_bias", "qk_layernorm", "use_parallel_residual"),
    "starcoder2": ("use_bias",),
}
_ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu", "relu2", "mish")


@dataclass(frozen=True)
class Configuration:
    """`dtype` is that of the model's files."""

    shape: Shape
    dtype: str
    conversion: ConvertOptions
    recipe: BuildRecipe


def random_configuration(rng: np.random.Generator, family: str, target: str) -> Configuration:
    scheme = None if rng.random() < 0.3 else str(rng.choice(list(RECIPES)))
    options: dict[str, Any] = quantizing(scheme, int(rng.choice([32, 64, 128])))
    if scheme is not None and rng.random() < 0.3:
        options["exclude_modules"] = (str(rng.choice(["*lm_head", "*.mlp.*", "*attention.dense"])),)
    return Configuration(
        _odd_shape(rng, family),
        str(rng.choice(DTYPES)),
        ConvertOptions(progress=False, **options),
        _random_recipe(rng, target),
    )


def _odd_shape(rng: np.random.Generator, family: str) -> Shape:
    """As random_shape, with sizes that nothing divides, every bias and norm there or not, and any rotary scaling."""
    shape = random_shape(rng, family)
    num_kv_heads, queries_per_kv = int(rng.integers(1, 6)), int(rng.integers(1, 8))
    num_heads = num_kv_heads * queries_per_kv
    head_size = 2 * int(rng.integers(1, 50) if rng.random() < 0.9 else rng.integers(50, 160))
    if family == "stablelm":
        head_size = 8 * int(rng.integers(1, 7))
    # transformers' Llama insists on a multiple of the number of heads, and its StableLM on heads that make it up.
    hidden_size = num_heads * (head_size if family == "stablelm" else int(rng.integers(1, 200 // num_heads + 2)))
    extra = dict(shape.extra)
    for name in _SWITCHES.get(family, ()):
        extra[name] = bool(rng.random() < 0.5)
    if rng.random() < 0.2:
        key = "hidden_activation" if family.startswith("gemma") else "hidden_act"
        extra[key] = str(rng.choice(_ACTIVATIONS))
    windowed = shape.sliding_window is not None
    return replace(
        shape,
        head_size=head_size,
        num_kv_heads=num_kv_heads,
        queries_per_kv=queries_per_kv,
        hidden_size=hidden_size,
        intermediate_size=int(rng.integers(1, 300)),
        vocab_size=int(rng.integers(3, 1200)),
        sliding_window=int(rng.integers(1, 40)) if windowed else None,
        rope=random_rope(rng, str(rng.choice(ROPE_KINDS)), head_size) if family in ("llama", "qwen2") else None,
        extra=extra,
    )


def _random_recipe(rng: np.random.Generator, target: str) -> BuildRecipe:
    limits: dict[str, Any] = {
        "target": target,
        "max_batch_size": int(rng.integers(1, 10)),
        "max_seq_len": MAX_SEQ_LEN,
        "max_num_tokens": int(rng.integers(10, 80)),
    }
    if target == "cpu":
        limits["tokens_per_block"] = 16 * int(rng.integers(1, 5))
        limits["kv_cache_dtype"] = str(rng.choice(["auto", "int8", "fp8", "int4"]))
    return make_recipe(**limits)

"""Variants of the attention kernels for the supported models, and the names of their constants."""

from __future__ import annotations

from inflight.build.gpu_kernels.spec import Constant, Variant

# The values of `cache_format` in kernels/paged_cache.py.
PLAIN, FLOAT8, INT8 = 0, 1, 2
# What tl.dot takes of the inner dimension at least, of 16 bits.
LEAST_INNER = 16
_ROUNDING = ("quantizes", "orders", "multiplies", "float8", "has_stored", "cuts")
_FORMATS = {"bf16": PLAIN, "fp16": PLAIN, "fp32": PLAIN, "float8": FLOAT8, "int8": INT8}


def attention_variant(
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    *,
    kv: str = "bf16",
    act: str = "bf16",
    tokens_per_block: int = 64,
    scale: float | None = None,
    soft_cap: float = 0.0,
    window: int = 0,
    chunk: int = 0,
    bias: tuple[int, int] | None = None,
    has_sinks: bool = False,
    split_tokens: int = 0,
) -> Variant:
    """`kv` is bf16, fp16, fp32, float8 or int8; fp32 goes with an `act` of fp32. `split_tokens`,
    for decoding alone, is part of what decides a result's bits.

    `scale` is 1 / sqrt(head_size) unless given; `soft_cap`, `window` and `chunk` are off at 0. `bias`: the width and
    the origin of the table that is added to scores. `has_sinks` is of prompts; `combine_variant` has it for decoding.
    """
    constants: dict[str, Constant] = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_size": head_size,
        "tokens_per_block": tokens_per_block,
        "scale": head_size**-0.5 if scale is None else scale,
        "soft_cap": soft_cap,
        "window": window,
        "chunk": chunk,
        "has_bias": bias is not None,
        "bias_width": bias[0] if bias else 0,
        "bias_origin": bias[1] if bias else -1,
        "cache_format": _FORMATS[kv],
    }
    constants |= {"split_tokens": split_tokens} if split_tokens else {"has_sinks": has_sinks}
    return Variant({"act": act, "kv": "i8" if _FORMATS[kv] else kv}, constants)


def combine_variant(decode: Variant, *, has_sinks: bool = False) -> Variant:
    """What combines the splits of a variant of `paged_decode`."""
    names = ("num_heads", "head_size", "window", "chunk", "split_tokens")
    constants = {name: decode.constants[name] for name in names}
    return Variant({"act": decode.types["act"]}, {**constants, "has_sinks": has_sinks})


def listed_variant(
    decode: Variant, *, has_sinks: bool = False, most_rows: int = 256, levels: Variant | None = None
) -> Variant:
    """`listed_decode` in place of a variant of `paged_decode`, for launches of at most `most_rows` rows. `levels`: the
    variant of `quantize_rows` that would make levels of its rows."""
    constants = {**decode.constants, "has_sinks": has_sinks, "most_rows": padded(most_rows)}
    constants |= {name: levels is not None and levels.constants[name] for name in _ROUNDING}
    return Variant({**decode.types, "factors": levels.types["factors"] if levels else "fp32"}, constants)


def padded_head_of(variant: Variant) -> int:
    """The head size in registers."""
    return padded(int(variant.constants["head_size"]))


def padded(size: int) -> int:
    """A power of two, and at least what a product takes as its inner dimension."""
    return max(LEAST_INNER, 1 << (size - 1).bit_length())


def latent_constants(
    num_heads: int, rank: int, rotary_size: int, *, kv: str, tokens_per_block: int
) -> dict[str, Constant]:
    """What all kernels of latent attention are told; `kv` as in `attention_variant`."""
    sizes: dict[str, Constant] = {"num_heads": num_heads, "rank": rank, "rotary_size": rotary_size}
    return sizes | {"tokens_per_block": tokens_per_block, "cache_format": _FORMATS[kv]}


def latent_types(kv: str, act: str) -> dict[str, str]:
    """Those of their queries and of the cache."""
    return {"act": act, "kv": "i8" if _FORMATS[kv] else kv}


def attention_variants(*, decode: bool) -> tuple[Variant, ...]:
    """Llama-3.1-8B with every cache, Qwen2-0.5B, Gemma's caps and windows, a head size that is no power of two, the
    sinks of gpt-oss, biases by position (BLOOM's, and of distances), Llama 4's chunks."""
    split = 256 if decode else 0
    return (
        *(attention_variant(32, 8, 128, kv=kv, split_tokens=split) for kv in ("bf16", "float8", "int8")),
        attention_variant(32, 8, 128, kv="fp16", act="fp16", split_tokens=split),
        attention_variant(14, 2, 64, tokens_per_block=32, split_tokens=split),
        attention_variant(14, 2, 64, kv="int8", tokens_per_block=32, split_tokens=split),
        attention_variant(8, 4, 256, soft_cap=50.0, window=4096, split_tokens=split),
        attention_variant(8, 4, 256, kv="float8", window=1024, split_tokens=split),
        attention_variant(32, 32, 80, tokens_per_block=16, split_tokens=split),
        attention_variant(3, 1, 8, split_tokens=split),
        attention_variant(32, 8, 128, kv="fp32", act="fp32", split_tokens=split),
        attention_variant(8, 4, 256, kv="fp32", act="fp32", soft_cap=50.0, window=4096, split_tokens=split),
        attention_variant(64, 8, 64, window=128, has_sinks=not decode, split_tokens=split),
        attention_variant(32, 32, 128, bias=(2112, -1), split_tokens=split),
        attention_variant(16, 2, 128, bias=(2112, 2047), kv="int8", split_tokens=split),
        attention_variant(40, 8, 128, chunk=8192, split_tokens=split),
    )


def rope_variant(
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    *,
    kv: str = "bf16",
    act: str = "bf16",
    qkv: str = "bf16",
    norm: str | None = None,
    tokens_per_block: int = 64,
    rotary_size: int | None = None,
    epsilon: float | None = None,
    norm_last: bool = False,
    has_factors: bool = False,
) -> Variant:
    """`epsilon` is that of the RMSNorm of each query and key head; None where the model has none. `rotary_size` is
    head_size unless given, `norm` (the type of the norms' weights) `act`.
    """
    constants: dict[str, Constant] = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_size": head_size,
        "tokens_per_block": tokens_per_block,
        "rotary_size": head_size if rotary_size is None else rotary_size,
        "normalizes": epsilon is not None,
        "norm_last": norm_last,
        "epsilon": epsilon or 0.0,
        "has_factors": has_factors,
        "cache_format": _FORMATS[kv],
    }
    return Variant({"qkv": qkv, "act": act, "norm": norm or act, "kv": "i8" if _FORMATS[kv] else kv}, constants)


def rope_variants() -> tuple[Variant, ...]:
    """The models of `attention_variants`, Qwen3's norms, and Ministral 3's factors of queries."""
    return (
        *(rope_variant(32, 8, 128, kv=kv) for kv in ("bf16", "float8", "int8")),
        rope_variant(32, 8, 128, kv="fp16", act="fp16", qkv="fp16"),
        rope_variant(14, 2, 64, tokens_per_block=32),
        rope_variant(32, 8, 128, qkv="fp32", epsilon=1e-6),
        rope_variant(8, 4, 256, kv="float8"),
        rope_variant(32, 32, 80, tokens_per_block=16),
        rope_variant(32, 32, 80, qkv="fp32", rotary_size=32),
        rope_variant(16, 4, 128, qkv="fp32", rotary_size=0),
        rope_variant(16, 4, 128, qkv="fp32", epsilon=1e-5, norm_last=True),
        rope_variant(32, 8, 128, qkv="fp32", has_factors=True),
    )

"""The paged KV cache of an engine: its layout's name and its size, as kernels/cache.h lays it out."""

from __future__ import annotations

from inflight.build.targets.cpu.attention_partials import SPLIT_TOKENS
from inflight.convert.checkpoint.model_spec import AttentionSpec, ModelSpec
from inflight.engine_format.cpu_facts import KV_LAYOUT, KV_LAYOUT_WITH_SCALES
from inflight.engine_format.cpu_kv_cache import INTEGERS, key_bytes, value_bytes
from inflight.engine_format.manifest import Dtype, KvCacheFacts
from inflight.errors import BuildError

_MOST_VALUE_BYTES = 2 << 20


def kv_cache_facts(spec: ModelSpec, dtype: Dtype, tokens_per_block: int) -> KvCacheFacts:
    """The keys and values of every layer, or its latent rows. Raises BuildError for latent rows of four bits, or in
    blocks too large for a thread's stack."""
    for layer in spec.layers:
        _check_split(layer.attention, dtype, tokens_per_block)
    per_token = sum(_layer_bytes(layer.attention, dtype) for layer in spec.layers)
    return KvCacheFacts(
        dtype=dtype,
        tokens_per_block=tokens_per_block,
        bytes_per_block=per_token * tokens_per_block,
        layout=KV_LAYOUT_WITH_SCALES if dtype in INTEGERS else KV_LAYOUT,
    )


def _check_split(attention: AttentionSpec, dtype: Dtype, tokens_per_block: int) -> None:
    """Values of latent rows are made of a split's keys on the stack (kernels/latent.h)."""
    if attention.latent is None:
        return
    tokens = -(-SPLIT_TOKENS // tokens_per_block) * tokens_per_block
    if tokens * value_bytes(1, attention.latent.rank, dtype) > _MOST_VALUE_BYTES:
        raise BuildError(
            f"--tokens-per-block {tokens_per_block}: too many for latent attention (rank {attention.latent.rank}).",
            "Blocks of up to 256 tokens do.",
        )


def _layer_bytes(attention: AttentionSpec, dtype: Dtype) -> int:
    """Of a token."""
    if attention.latent is not None:
        if dtype == "int4":
            raise BuildError(
                "Rows of latent attention have no cache of int4: their first elements are values as well.",
                "Build with --kv-cache-dtype int8 or fp8.",
            )
        return key_bytes(1, attention.cached_elements, dtype)
    heads, size = attention.num_kv_heads, attention.head_size
    return key_bytes(heads, size, dtype) + value_bytes(heads, size, dtype)

"""The paged KV cache of an engine: its layout's name and its size, as kernels/cache.h lays it out."""

from __future__ import annotations

from inflight.build.targets.cpu.attention_partials import SPLIT_TOKENS
from inflight.convert.checkpoint.model_spec import AttentionSpec, ModelSpec
from inflight.dtypes import DTYPES
from inflight.engine_format.cpu_facts import KV_LAYOUT, KV_LAYOUT_WITH_SCALES
from inflight.engine_format.manifest import Dtype, KvCacheFacts
from inflight.errors import BuildError

_LANES = 16
_SCALE_BYTES = 4
# Elements of a head that lie together in its keys, by type; any other type pads none.
_KEY_GROUPS = {"bfloat16": 2, "float8_e4m3fn": 2, "int8": 4, "int4": 8}
INTEGERS = ("int8", "int4")
_MOST_VALUE_BYTES = 2 << 20


def kv_cache_facts(spec: ModelSpec, dtype: Dtype, tokens_per_block: int) -> KvCacheFacts:
    """Keys of D elements (bfloat16 and 8-bit floats: D rounded up to 2, int8: to 4, int4: to 8), values of D rounded up
    to 16 (int4: to 32), and a float32 scale for each of both where they are integers. Latent rows lie as keys do.

    Raises BuildError for latent rows of four bits, or in blocks too large for a thread's stack.
    """
    integers = dtype in INTEGERS
    for layer in spec.layers:
        _check_split(layer.attention, dtype, tokens_per_block)
    per_token = sum(_layer_bytes(layer.attention, dtype) for layer in spec.layers)
    return KvCacheFacts(
        dtype=dtype,
        tokens_per_block=tokens_per_block,
        bytes_per_block=per_token * tokens_per_block,
        layout=KV_LAYOUT_WITH_SCALES if integers else KV_LAYOUT,
    )


def _check_split(attention: AttentionSpec, dtype: Dtype, tokens_per_block: int) -> None:
    """Values of latent rows are made of a split's keys on the stack (kernels/latent.h)."""
    if attention.latent is None:
        return
    tokens = _round_up(SPLIT_TOKENS, tokens_per_block)
    if tokens * _round_up(attention.latent.rank, _LANES) * DTYPES[dtype].bits // 8 > _MOST_VALUE_BYTES:
        raise BuildError(
            f"--tokens-per-block {tokens_per_block}: too many for latent attention (rank {attention.latent.rank}).",
            "Blocks of up to 256 tokens do.",
        )


def _layer_bytes(attention: AttentionSpec, dtype: Dtype) -> int:
    """Of a token."""
    bits, scales = DTYPES[dtype].bits, _SCALE_BYTES if dtype in INTEGERS else 0
    if attention.latent is not None:
        if dtype == "int4":
            raise BuildError(
                "Rows of latent attention have no cache of int4: their first elements are values as well.",
                "Build with --kv-cache-dtype int8 or fp8.",
            )
        return _round_up(attention.cached_elements, _KEY_GROUPS.get(dtype, 1)) * bits // 8 + scales
    keys = _round_up(attention.head_size, _KEY_GROUPS.get(dtype, 1))
    values = _round_up(attention.head_size, _LANES * (2 if dtype == "int4" else 1))
    return attention.num_kv_heads * ((keys + values) * bits // 8 + 2 * scales)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step

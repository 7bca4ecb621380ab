"""The paged KV cache of an engine: its layout's name and its size, as kernels/cache.h lays it out."""

from __future__ import annotations

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.dtypes import DTYPES
from inflight.engine_format.cpu_facts import KV_LAYOUT, KV_LAYOUT_WITH_SCALES
from inflight.engine_format.manifest import Dtype, KvCacheFacts

_LANES = 16
_SCALE_BYTES = 4
# Elements of a head that lie together in its keys, by type; any other type pads none.
_KEY_GROUPS = {"int8": 4, "int4": 8}
INTEGERS = tuple(_KEY_GROUPS)


def kv_cache_facts(config: CheckpointConfig, dtype: Dtype, tokens_per_block: int) -> KvCacheFacts:
    """Keys of D elements (int8: D rounded up to 4, int4: to 8), values of D rounded up to 16 (int4: to 32), and a
    float32 scale for each of both where they are integers."""
    integers, bits = dtype in INTEGERS, DTYPES[dtype].bits
    keys = _round_up(config.head_size, _KEY_GROUPS.get(dtype, 1))
    values = _round_up(config.head_size, _LANES * (2 if dtype == "int4" else 1))
    bytes_per_head = (keys + values) * bits // 8 + (2 * _SCALE_BYTES if integers else 0)
    per_token = config.num_hidden_layers * config.num_key_value_heads * bytes_per_head
    return KvCacheFacts(
        dtype=dtype,
        tokens_per_block=tokens_per_block,
        bytes_per_block=per_token * tokens_per_block,
        layout=KV_LAYOUT_WITH_SCALES if integers else KV_LAYOUT,
    )


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step

"""What a token takes in the KV cache of the cpu target, as build/targets/cpu/kernels/cache.h lays it out."""

from __future__ import annotations

from inflight.dtypes import DTYPES
from inflight.engine_format.manifest import Dtype

INTEGERS = ("int8", "int4")
_LANES = 16
_SCALE_BYTES = 4
# Elements of a head that lie together in its keys, by type; any other type pads none.
_KEY_GROUPS = {"bfloat16": 2, "float8_e4m3fn": 2, "int8": 4, "int4": 8}


def key_bytes(heads: int, head_size: int, dtype: Dtype) -> int:
    """Keys of D elements (bfloat16 and 8-bit floats: D rounded up to 2, int8: to 4, int4: to 8), and a float32 scale of
    each head where they are integers. Latent rows lie as the keys of one head do."""
    return heads * (_round_up(head_size, _KEY_GROUPS.get(dtype, 1)) * DTYPES[dtype].bits // 8 + _scale_bytes(dtype))


def value_bytes(heads: int, head_size: int, dtype: Dtype) -> int:
    """Values of D elements rounded up to 16 (int4: to 32), and scales as keys have them."""
    padded = _round_up(head_size, _LANES * (2 if dtype == "int4" else 1))
    return heads * (padded * DTYPES[dtype].bits // 8 + _scale_bytes(dtype))


def _scale_bytes(dtype: Dtype) -> int:
    return _SCALE_BYTES if dtype in INTEGERS else 0


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step

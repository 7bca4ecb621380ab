"""Rotation and cache write of the cuda target, interpreted and on a GPU where there is one, against float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.variants import FLOAT8, INT8, rope_variant
from tests.kernel.gpu.support.cuda_gpu import run_on_gpu
from tests.kernel.gpu.support.cuda_launch import interpret
from tests.oracles.gpu.paged_attention import cache_numbers, rotated_heads

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
PER_BLOCK = 16
EPSILON = 1e-6
FLOAT8_SCALE = 0.02
# The relative error of one rounding, and the absolute one near zero. The interpreter cuts bfloat16 off.
STEPS = {"fp16": (2.0**-10, 1e-5), "bf16": (2.0**-7, 1e-5), "float8": (2.0**-3, FLOAT8_SCALE * 2.0**-9)}
NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "float8": np.int8, "int8": np.int8}

# heads, KV heads and head size; types of the cache and of queries; epsilon of norms, if there are any; what is rotated.
CASES = [
    ((8, 2, 64), "fp16", "fp16", None, 64),
    ((7, 1, 64), "bf16", "bf16", None, 64),
    ((2, 2, 80), "int8", "fp16", None, 80),
    ((2, 2, 80), "fp16", "fp16", None, 24),
    ((3, 1, 48), "fp16", "fp16", EPSILON, 0),
    ((6, 2, 96), "float8", "fp16", EPSILON, 96),
    ((4, 4, 128), "int8", "fp16", EPSILON, 32),
]


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize(("heads", "kv", "act", "epsilon", "rotary"), CASES)
def test_queries_keys_and_values_are_those_of_float64(
    rng: np.random.Generator,
    run: Any,
    heads: tuple[int, int, int],
    kv: str,
    act: str,
    epsilon: float | None,
    rotary: int,
) -> None:
    norm_last, has_factors = (bool(drawn) for drawn in rng.integers(2, size=2))
    num_heads, num_kv_heads, size = heads
    positions = np.array([0, 15, 16, -1, 40], np.int32)
    sequences = np.array([1, 0, 0, 0, 1], np.int32)
    tables = rng.permutation(8).reshape(2, 4).astype(np.int32)
    shape = (8, num_kv_heads, PER_BLOCK, size)
    angles = np.outer(np.arange(64), 100.0 ** -(np.arange(rotary // 2) / size))
    rows = (rng.standard_normal((5, (num_heads + 2 * num_kv_heads) * size)) * 2).astype(np.float32)
    arrays: dict[str, Array] = {
        "qkv": rows,
        "q_norm": rng.uniform(0.5, 2, size).astype(NUMPY[act]),
        "k_norm": rng.uniform(0.5, 2, size).astype(NUMPY[act]),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "positions": positions,
        "sequence_of_row": sequences,
        "block_tables": tables,
        "q_factors": rng.uniform(0.5, 2, 64).astype(np.float32),
        "q": np.zeros((5, num_heads * size), NUMPY[act]),
        "key_cache": np.zeros(shape, NUMPY[kv]),
        "value_cache": np.zeros(shape, NUMPY[kv]),
        "key_scales": np.full(1, FLOAT8_SCALE, np.float32) if kv == "float8" else np.zeros(shape[:3], np.float32),
        "value_scales": np.full(1, FLOAT8_SCALE, np.float32) if kv == "float8" else np.zeros(shape[:3], np.float32),
    }
    kinds: dict[str, Any] = {"epsilon": epsilon, "rotary_size": rotary, "norm_last": norm_last}
    kinds["has_factors"] = has_factors
    variant = rope_variant(*heads, kv=kv, act=act, qkv="fp32", tokens_per_block=PER_BLOCK, **kinds)
    run("rope_cache_write", variant, {**arrays, "block_table_stride": 4}, {"rows": 5})

    there = positions >= 0
    q, k, v = np.split(rows[there].reshape(4, -1, size), [num_heads, num_heads + num_kv_heads], axis=1)
    where = [arrays[name][positions[there]] for name in ("cos", "sin")]
    norms = [arrays[name] if epsilon else None for name in ("q_norm", "k_norm")]
    last: dict[str, Any] = {"epsilon": epsilon or 0.0, "norm_last": norm_last}
    exact_q = rotated_heads(q, norms[0], *where, **last)
    if has_factors:
        exact_q *= arrays["q_factors"][positions[there], None, None]
    exact_k = rotated_heads(k, norms[1], *where, **last)
    assert_rounded(arrays["q"][there].reshape(exact_q.shape), exact_q, act)
    assert not arrays["q"][~there].any(), "a row that is not there writes nothing"

    blocks, slots = tables[sequences[there], positions[there] // PER_BLOCK], positions[there] % PER_BLOCK
    form = int(variant.constants["cache_format"])
    for name, exact in (("key", exact_k), ("value", v.astype(np.float64))):
        cache, scales = arrays[f"{name}_cache"], arrays[f"{name}_scales"]
        written = np.zeros(shape[:3], bool)
        written[blocks, :, slots] = True
        assert not cache[~written].any(), "only the rows' own places are written"
        numbers = cache_numbers(cache, scales, form)[blocks, :, slots]
        if form == INT8:
            assert_int8(numbers, scales[blocks, :, slots], exact)
        elif form == FLOAT8:
            assert_rounded(numbers, np.clip(exact, -448 * FLOAT8_SCALE, 448 * FLOAT8_SCALE), kv)
        else:
            assert_rounded(numbers, exact, kv)


def assert_rounded(values: Array, exact: Array, kind: str) -> None:
    relative, absolute = STEPS[kind]
    assert (np.abs(values.astype(np.float64) - exact) <= relative * np.abs(exact) + absolute).all()


def assert_int8(numbers: Array, scales: Array, exact: Array) -> None:
    """The greatest magnitude is 127 scales, and every number the nearest multiple of its scale."""
    np.testing.assert_allclose(scales * 127, np.abs(exact).max(axis=-1), rtol=1e-5)
    assert (np.abs(numbers - exact) <= 0.501 * scales[..., None]).all()

"""The NumPy references of the fused operators against independent definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inflight.build.graph.operators import OPERATORS
from tests.oracles.fused_operators import REFERENCES, paged_attention, rms_norm, rope_cache_write

pytestmark = pytest.mark.network


def test_every_operator_has_a_reference() -> None:
    assert set(OPERATORS) == set(REFERENCES)


def test_rms_norm_is_torchs(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((5, 33), np.float32), rng.standard_normal(33, np.float32)
    expected = torch.nn.functional.rms_norm(torch.from_numpy(x), (33,), torch.from_numpy(weight), 1e-5).numpy()
    np.testing.assert_allclose(rms_norm(x, weight, epsilon=1e-5), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [0, 1, 5])
def test_paged_attention_is_torchs_over_scattered_blocks(window: int, rng: np.random.Generator) -> None:
    heads, kv_heads, size, block, length = 6, 2, 8, 4, 19
    table = rng.permutation(9)[:5].astype(np.int32)
    keys, values = rng.standard_normal((2, length, kv_heads, size), np.float32)
    caches = np.full((2, 9, kv_heads, block, size), np.nan, np.float32)
    for position in range(length):
        for cache, rows in zip(caches, (keys, values), strict=True):
            cache[table[position // block], :, position % block] = rows[position]
    q, positions = rng.standard_normal((length, heads, size), np.float32), np.arange(length)
    actual = paged_attention(
        q.reshape(length, -1),
        caches[0],
        caches[1],
        positions,
        np.zeros(length, np.int32),
        table[None],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=size,
        scale=0.3,
        window=window,
    )
    seen = positions[None] <= positions[:, None]
    if window:
        seen &= positions[None] > positions[:, None] - window
    by_head = [torch.from_numpy(x).transpose(0, 1)[None] for x in (q, keys, values)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *by_head, attn_mask=torch.from_numpy(seen), scale=0.3, enable_gqa=True
    )
    np.testing.assert_allclose(actual.reshape(q.shape), expected[0].transpose(0, 1).numpy(), rtol=1e-4, atol=1e-5)


def test_rope_cache_write_keeps_lengths_and_relative_angles(rng: np.random.Generator) -> None:
    size, block, length = 8, 4, 11
    angles = np.arange(length)[:, None] * (10000.0 ** (-np.arange(4) / 4))[None]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    row = rng.standard_normal(3 * size).astype(np.float32)
    key_cache, value_cache = np.zeros((2, 6, 1, block, size), np.float32)
    table = rng.permutation(6)[:3][None].astype(np.int32)
    q, *_ = rope_cache_write(
        np.tile(row, (length, 1)),
        None,
        None,
        cos,
        sin,
        np.arange(length),
        np.zeros(length, np.int32),
        table,
        key_cache,
        value_cache,
        num_heads=1,
        num_kv_heads=1,
        head_size=size,
        epsilon=0.0,
    )
    keys = np.stack([key_cache[table[0, p // block], 0, p % block] for p in range(length)])
    values = np.stack([value_cache[table[0, p // block], 0, p % block] for p in range(length)])
    np.testing.assert_array_equal(values, np.tile(row[2 * size :], (length, 1)))
    np.testing.assert_array_equal(q[0], row[:size])
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), np.linalg.norm(row[size : 2 * size]), rtol=1e-5)
    scores = q @ keys.T
    np.testing.assert_allclose(scores[5, 2], scores[9, 6], rtol=1e-4, atol=1e-4)

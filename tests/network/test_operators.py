"""The NumPy references of the fused operators against independent definitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from inflight.build.graph.operators import OPERATORS
from tests.oracles.fused_floats import activated, layer_norm, rms_norm, soft_cap
from tests.oracles.fused_operators import REFERENCES, paged_attention, rope_cache_write

pytestmark = pytest.mark.network


def test_every_operator_has_a_reference() -> None:
    assert set(OPERATORS) == set(REFERENCES)


def test_rms_norm_is_torchs(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((5, 33), np.float32), rng.standard_normal(33, np.float32)
    expected = torch.nn.functional.rms_norm(torch.from_numpy(x), (33,), torch.from_numpy(weight), 1e-5).numpy()
    np.testing.assert_allclose(rms_norm(x, weight, epsilon=1e-5), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_is_torchs(rng: np.random.Generator) -> None:
    x, (weight, bias) = rng.standard_normal((5, 33), np.float32), rng.standard_normal((2, 33), np.float32)
    for given in (bias, None):
        tensors = [None if array is None else torch.from_numpy(array) for array in (weight, given)]
        expected = torch.nn.functional.layer_norm(torch.from_numpy(x), (33,), *tensors, eps=1e-5).numpy()
        np.testing.assert_allclose(layer_norm(x, weight, given, epsilon=1e-5), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("silu", torch.nn.functional.silu),
        ("gelu", torch.nn.functional.gelu),
        ("gelu_tanh", partial(torch.nn.functional.gelu, approximate="tanh")),
        ("relu", torch.relu),
    ],
)
def test_activations_are_torchs(
    name: str, function: Callable[[torch.Tensor], torch.Tensor], rng: np.random.Generator
) -> None:
    x = rng.standard_normal((5, 33), np.float32) * 3
    expected = function(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(activated(x, activation=name), expected, rtol=1e-5, atol=1e-6)


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
        softcap=0.0,
    )
    seen = positions[None] <= positions[:, None]
    if window:
        seen &= positions[None] > positions[:, None] - window
    by_head = [torch.from_numpy(x).transpose(0, 1)[None] for x in (q, keys, values)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *by_head, attn_mask=torch.from_numpy(seen), scale=0.3, enable_gqa=True
    )
    np.testing.assert_allclose(actual.reshape(q.shape), expected[0].transpose(0, 1).numpy(), rtol=1e-4, atol=1e-5)


def test_a_soft_cap_bounds_scores_before_the_softmax(rng: np.random.Generator) -> None:
    """One head, one block: softmax(cap tanh(scale q k' / cap)) v, written out."""
    q, keys, values = rng.standard_normal((3, 7, 8), np.float32)
    attributes: dict[str, Any] = {"num_heads": 1, "num_kv_heads": 1, "head_size": 8}
    caches, places = (keys[None, None], values[None, None]), (np.arange(7), np.zeros(7, np.int32))
    table = np.zeros((1, 1), np.int32)
    actual = paged_attention(q, *caches, *places, table, **attributes, scale=2.0, window=0, softcap=1.5)
    scores = torch.from_numpy(soft_cap(q @ keys.T * np.float32(2), cap=1.5))
    scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    assert float(scores.max()) <= 1.5
    expected = scores.softmax(-1) @ torch.from_numpy(values)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rotary_size", [8, 4, 0])
def test_rope_cache_write_keeps_lengths_and_relative_angles(rotary_size: int, rng: np.random.Generator) -> None:
    size, block, length, half = 8, 4, 11, rotary_size // 2
    angles = np.arange(length)[:, None] * (10000.0 ** (-np.arange(half) / max(half, 1)))[None]
    cos, sin = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)) if half else (None, None)
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
        rotary_size=rotary_size,
        epsilon=0.0,
    )
    keys = np.stack([key_cache[table[0, p // block], 0, p % block] for p in range(length)])
    values = np.stack([value_cache[table[0, p // block], 0, p % block] for p in range(length)])
    np.testing.assert_array_equal(values, np.tile(row[2 * size :], (length, 1)))
    np.testing.assert_array_equal(q[0], row[:size])
    np.testing.assert_array_equal(q[:, rotary_size:], np.tile(row[rotary_size:size], (length, 1)))
    assert rotary_size == 0 or (q[1:, :rotary_size] != row[:rotary_size]).all()
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), np.linalg.norm(row[size : 2 * size]), rtol=1e-5)
    scores = q @ keys.T
    np.testing.assert_allclose(scores[5, 2], scores[9, 6], rtol=1e-4, atol=1e-4)

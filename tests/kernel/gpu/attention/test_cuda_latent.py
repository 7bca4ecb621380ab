"""Latent attention of the cuda target, interpreted, against the fused operators: products of heads, the cache's rows,
generated tokens and prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.prefill_tiles import prefill_tiles
from tests.kernel.gpu.support.cuda_attention import items_before
from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.oracles.fused_attention import head_linear, latent_cache_write, paged_latent_attention

from inflight.build.gpu_kernels.kernels import latent_attention, latent_cache_write as writing  # isort: skip
from inflight.build.gpu_kernels.kernels.head_linear import head_variant  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
FLOAT8 = ml_dtypes.float8_e4m3fn
SPLIT, PER_BLOCK, EPSILON, FACTOR = 32, 16, 1e-6, np.float32(0.37)
TILES = {"block_m": 16, "block_n": 16}
GROUPS = {"group_splits": 1}
_CACHES: dict[str, Any] = {"fp32": np.float32, "int8": np.int8, "float8": FLOAT8}


@dataclass
class Rows:
    """Rows of sequences of these lengths, all in one step; those of each are at positions 0, 1, ..."""

    heads: int
    rank: int
    rotary: int
    query_size: int
    kv: str
    arrays: dict[str, Array]
    lengths: list[int]

    @classmethod
    def random(cls, rng: np.random.Generator, kv: str, lengths: list[int]) -> Rows:
        heads, rank, rotary = int(rng.choice([1, 6, 18])), int(rng.integers(3, 70)), 2 * int(rng.integers(1, 12))
        query_size, count, blocks = rotary + int(rng.integers(1, 9)), sum(lengths), -(-max(lengths) // PER_BLOCK)
        widths = {"q": heads * query_size, "met": heads * rank, "kv": rank + rotary}
        arrays: dict[str, Array] = {name: rng.standard_normal((count, n), np.float32) for name, n in widths.items()}
        arrays["norm"] = rng.standard_normal(rank).astype(np.float32)
        arrays |= {name: rng.standard_normal((128, rotary // 2), np.float32) for name in ("cos", "sin")}
        arrays["positions"] = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
        arrays["sequence_of_row"] = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
        tables = rng.permutation(blocks * len(lengths)).reshape(len(lengths), blocks)
        arrays["block_tables"] = tables.astype(np.int32)
        return cls(heads, rank, rotary, query_size, kv, arrays, lengths)

    @property
    def width(self) -> int:
        return self.rank + self.rotary

    @property
    def sizes(self) -> dict[str, Any]:
        factor = float(FACTOR) if self.kv == "float8" else 1.0
        return {"num_heads": self.heads, "rank": self.rank, "rotary_size": self.rotary, "key_factor": factor}

    def reference(self, scale: float) -> tuple[Array, Array, Array]:
        """Queries, the cache [blocks, 1, tokens, width], and what attention makes of all rows."""
        arrays, extra = self.arrays, 4 if self.kv == "int8" else 0
        cache = np.zeros((arrays["block_tables"].size, 1, PER_BLOCK, self.width + extra), _CACHES[self.kv])
        names = ("q", "met", "kv", "norm", "cos", "sin", "positions", "sequence_of_row", "block_tables")
        given: dict[str, Any] = {name: arrays[name] for name in names}
        queries, cache = latent_cache_write(**given, cache=cache, **self.sizes, epsilon=EPSILON)
        paging = [arrays[name] for name in ("positions", "sequence_of_row", "block_tables")]
        return queries, cache, paged_latent_attention(queries, cache, *paging, **self.sizes, scale=scale)


class Cache:
    """The memory of one layer; what no token was written to is NaN where it can be."""

    def __init__(self, rows: Rows) -> None:
        self.rows, blocks = rows, rows.arrays["block_tables"].size
        held = np.float32 if rows.kv == "fp32" else np.int8
        self.data = np.full((blocks, PER_BLOCK, rows.width), np.nan if rows.kv == "fp32" else 0x7F, held)
        self.scales = np.full((blocks, PER_BLOCK), np.nan, np.float32)
        if rows.kv == "float8":
            self.scales = np.array([FACTOR], np.float32)
        self.queries = np.full((len(rows.arrays["q"]), rows.heads * rows.width), np.nan, np.float32)

    def write(self) -> None:
        rows = self.rows
        kinds: dict[str, Any] = {"kv": rows.kv, "act": "fp32", "norm": "fp32", "tokens_per_block": PER_BLOCK}
        sizes = (rows.heads, rows.rank, rows.rotary, rows.query_size)
        variant = writing.latent_write_variant(*sizes, **kinds, epsilon=EPSILON)
        self._run("latent_cache_write", variant, {"queries": self.queries}, {"rows": len(self.queries)})

    def decoded(self, scale: float, chosen: Array) -> Array:
        """Of the rows of these numbers, every part of the partial results that no split writes being NaN."""
        rows, count = self.rows, len(chosen)
        picked = {name: rows.arrays[name][chosen] for name in ("positions", "sequence_of_row")}
        before = items_before(picked["positions"], SPLIT)
        items = int(before[-1]) + 1
        parts = {name: np.full((items, rows.heads), np.nan, np.float32) for name in ("maxima", "totals")}
        parts["partials"] = np.full((items, rows.heads, rows.rank), np.nan, np.float32)
        arrived = np.zeros((items, -(-rows.heads // latent_attention.HEADS_AT_ONCE), 2), np.int32)
        y = np.full((count, rows.heads * rows.rank), np.nan, np.float32)
        arrays: dict[str, Any] = {**picked, **parts, "q": self.queries[chosen], "y": y, "arrived": arrived}
        arrays |= {"first_items": before[:-1], "rows": count}
        self._run(
            "latent_decode", self._variant(scale, split_tokens=SPLIT), arrays, {"rows": count, "items": items}, GROUPS
        )
        assert not arrived.any(), "the next launch counts from zero"
        return y

    def prefilled(self, scale: float, lengths: list[int], first: int = 0) -> Array:
        """Of chunks of such lengths, which lie behind each other from row `first` on."""
        rows, variant = self.rows, self._variant(scale)
        tuning = {**SPECS["latent_prefill"].tune(90, variant).constants, **TILES}
        tokens = TILES["block_m"] * int(tuning["num_kv_heads"]) // rows.heads
        begins, ends = (each + first for each in prefill_tiles(lengths, tokens))
        y = np.full((len(self.queries), rows.heads * rows.rank), np.nan, np.float32)
        arrays = {"q": self.queries, "tile_begins": begins.astype(np.int32), "tile_ends": ends.astype(np.int32), "y": y}
        self._run("latent_prefill", variant, arrays, {"tiles": len(begins)}, tuning)
        return y[first : first + sum(lengths)]

    def _variant(self, scale: float, **more: Any) -> Any:
        rows = self.rows
        kinds: dict[str, Any] = {"kv": rows.kv, "act": "fp32", "tokens_per_block": PER_BLOCK, "scale": scale}
        return latent_attention.latent_variant(rows.heads, rows.rank, rows.rotary, **kinds, **more)

    def _run(
        self, function: str, variant: Any, arrays: dict[str, Any], sizes: dict[str, int], tuned: Any = None
    ) -> None:
        stride = int(self.rows.arrays["block_tables"].shape[1])
        known: dict[str, Any] = {
            **self.rows.arrays,
            "cache": self.data,
            "scales": self.scales,
            "block_table_stride": stride,
        }
        interpret(function, variant, {**known, **arrays}, sizes, tuned)


@pytest.mark.parametrize("kv", _CACHES)
def test_latent_attention_is_that_of_the_operators(rng: np.random.Generator, kv: str) -> None:
    """Generated tokens and prompts; a row has the same bits alone and in chunks."""
    lengths = [1, int(rng.integers(SPLIT + 1, 2 * SPLIT)), 9]
    rows, scale = Rows.random(rng, kv, lengths), float(np.float32(rng.uniform(0.1, 0.4)))
    queries, stored, expected = rows.reference(scale)
    cache = Cache(rows)
    cache.write()
    np.testing.assert_allclose(cache.queries, queries, rtol=1e-5, atol=1e-5)
    _assert_stored(cache, stored[:, 0])
    # Roundings of the cache that fall to the other side are as good.
    slack = {"fp32": 2e-5, "int8": 2e-2, "float8": 6e-2}[kv] * float(np.abs(expected).max())
    count = len(expected)
    chosen = np.unique([0, count - 1, *rng.integers(count, size=3)])
    y = cache.decoded(scale, chosen)
    np.testing.assert_allclose(y, expected[chosen], rtol=0, atol=slack)
    assert np.array_equal(cache.decoded(scale, chosen[1:2])[0], y[1])
    # The end of one prompt and the beginning of the next.
    end, begun = 1 + lengths[1], 5
    first = end - int(rng.integers(2, 6))
    both = cache.prefilled(scale, [end - first, begun], first)
    np.testing.assert_allclose(both, expected[first : end + begun], rtol=0, atol=slack)
    assert np.array_equal(cache.prefilled(scale, [1], end - 1)[0], both[end - 1 - first])


def _assert_stored(cache: Cache, stored: Array) -> None:
    rows = cache.rows
    blocks = rows.arrays["block_tables"][rows.arrays["sequence_of_row"], rows.arrays["positions"] // PER_BLOCK]
    places = blocks, rows.arrays["positions"] % PER_BLOCK
    found, theirs = cache.data[places], stored[places]
    if rows.kv == "fp32":
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)
    elif rows.kv == "int8":
        scales = np.ascontiguousarray(theirs[:, -4:]).view(np.float32)[:, 0]
        np.testing.assert_allclose(cache.scales[places], scales, rtol=1e-5)
        assert np.abs(found.astype(int) - theirs[:, :-4].astype(int)).max() <= 1
    else:
        numbers = found.view(FLOAT8).astype(np.float32)
        np.testing.assert_allclose(numbers, theirs.astype(np.float32), rtol=0.13, atol=2**-9)


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_every_head_meets_its_own_matrix(rng: np.random.Generator, kind: str) -> None:
    """Few rows and many have the same bits."""
    heads, n, k, rows = (int(rng.integers(1, most)) for most in (5, 90, 140, 30))
    row_size, dtype = k + int(rng.integers(0, 20)), {"fp32": np.float32, "fp16": np.float16}[kind]
    weight = (rng.standard_normal((heads, n, k)) * k**-0.5).astype(dtype)
    x, found = rng.standard_normal((rows, heads * row_size)).astype(dtype), []
    for few in (True, False):
        y = np.full((rows, heads * n), np.nan, np.float32)
        variant = head_variant(heads, n, k, row_size, few=few, x=kind)
        interpret("head_linear", variant, {"x": x, "weight": weight, "y": y, "rows": rows}, {"rows": rows})
        found.append(y)
    np.testing.assert_allclose(found[0], head_linear(x, weight, row_size=row_size), rtol=1e-5, atol=1e-5)
    assert np.array_equal(found[0], found[1])

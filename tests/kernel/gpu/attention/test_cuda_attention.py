"""Paged attention of the cuda target, interpreted, against float64: ragged batches, every cache, no company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.prefill_tiles import prefill_tiles
from inflight.build.gpu_kernels.spec import Variant
from inflight.build.gpu_kernels.variants import attention_variant
from tests.kernel.gpu.support.cuda_attention import (
    Batch,
    Chunk,
    Rounding,
    decode,
    decode_in_two,
    expected,
    prefill,
    random_batch,
)
from tests.kernel.gpu.support.cuda_launch import interpret, programs_in_any_order

from inflight.build.gpu_kernels.kernels.quantize_rows import quantize_variant, tiles_variant  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
SPLIT = 64
# Small tiles, so that small contexts have several of them.
DECODE_TILES = {"block_n": 32}
PREFILL_TILES = {"block_m": 32, "block_n": 32}
NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"heads": (8, 2, 64), "tokens_per_block": 32},
    "seven to one": {"heads": (7, 1, 64), "tokens_per_block": 16},
    "one to one, 80": {"heads": (2, 2, 80), "tokens_per_block": 16},
    "soft cap, window": {"heads": (4, 2, 128), "tokens_per_block": 64, "soft_cap": 5.0, "window": 41},
    "sinks, window": {"heads": (6, 2, 64), "tokens_per_block": 32, "window": 50, "sinks": True},
    "sinks, chunks": {"heads": (3, 1, 48), "tokens_per_block": 16, "chunk": 70, "sinks": True},
    "bias by token": {"heads": (3, 3, 64), "tokens_per_block": 32, "bias": (300, -1)},
    "bias by distance, window": {"heads": (4, 2, 64), "tokens_per_block": 32, "bias": (300, 270), "window": 90},
    "window of one": {"heads": (4, 2, 64), "tokens_per_block": 64, "window": 1},
}


def variant_of(shape: str, kv: str = "fp16", act: str = "fp16", *, decodes: bool) -> Variant:
    options: dict[str, Any] = dict(SHAPES[shape])
    heads, has_sinks = options.pop("heads"), options.pop("sinks", False)
    kinds: dict[str, Any] = {"split_tokens": SPLIT} if decodes else {"has_sinks": has_sinks}
    return attention_variant(*heads, **{**options, **kinds, "kv": kv, "act": act})


def batch_of(
    rng: np.random.Generator, shape: str, chunks: Sequence[Chunk], *, decodes: bool, kv: str = "fp16"
) -> Batch:
    variant = variant_of(shape, kv, decodes=decodes)
    return random_batch(rng, variant, chunks, np.float16, has_sinks=bool(SHAPES[shape].get("sinks")))


def run_tiled(function: str, variant: Variant, arguments: Any, sizes: Any) -> None:
    tiles = {**DECODE_TILES, "group_splits": 2} if function == "listed_decode" else DECODE_TILES
    interpret(function, variant, arguments, sizes, None if function == "combine_splits" else tiles)


def run_decode(batch: Batch) -> Array:
    return decode(run_tiled, batch)


def run_prefill(batch: Batch) -> Array:
    def run(function: str, variant: Variant, arguments: Any, sizes: Any) -> None:
        interpret(function, variant, arguments, sizes, PREFILL_TILES)

    return prefill(run, batch, PREFILL_TILES["block_m"])


def assert_close(result: Array, batch: Batch) -> None:
    """Weights are rounded to the type of q before they meet the values, and the result once more.

    The interpreter cuts bfloat16 off, so its steps are twice as long; float16 is coarser below 2^-14.
    """
    step = 2.0**-11 if result.dtype == np.float16 else 2.0**-7
    exact, magnitude = expected(batch)
    error = np.abs(result.astype(np.float64) - exact)
    assert (error <= step * (magnitude + np.abs(exact)) + 1e-4 * magnitude + 2.0**-24).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_decode_is_attention_in_float64(rng: np.random.Generator, shape: str) -> None:
    lengths = [1, SPLIT, SPLIT + 1, int(rng.integers(2, 260))]
    batch = batch_of(rng, shape, [Chunk(length - 1, 1) for length in lengths], decodes=True)
    assert_close(run_decode(batch), batch)


@pytest.mark.parametrize("kv", ["int8", "float8"])
@pytest.mark.parametrize("act", ["fp16", "bf16"])
def test_decode_reads_quantized_caches(rng: np.random.Generator, kv: str, act: str) -> None:
    variant = variant_of("grouped", kv, act, decodes=True)
    batch = random_batch(rng, variant, [Chunk(int(rng.integers(150)), 1) for _ in range(3)], NUMPY[act])
    assert_close(run_decode(batch), batch)


def test_int8_values_reach_the_greatest_number_of_float16(rng: np.random.Generator) -> None:
    for decodes, run in ((True, run_decode), (False, run_prefill)):
        variant = variant_of("grouped", "int8", decodes=decodes)
        batch = random_batch(rng, variant, [Chunk(int(rng.integers(100)), 1)], np.float16)
        batch.arrays["value_scales"] *= np.float32(65504 / 127) / np.nanmax(batch.arrays["value_scales"])
        assert_close(run(batch), batch)


@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_is_attention_in_float64(rng: np.random.Generator, shape: str) -> None:
    some, past = int(rng.integers(2, 70)), int(rng.integers(90))
    chunks = [Chunk(0, 1), Chunk(0, some), Chunk(0, 0), Chunk(64, 33), Chunk(past, 5)]
    batch = batch_of(rng, shape, chunks, decodes=False)
    assert_close(run_prefill(batch), batch)


@pytest.mark.parametrize("kv", ["int8", "float8"])
def test_biases_and_sinks_beside_a_quantized_cache(rng: np.random.Generator, kv: str) -> None:
    """Scores are scaled before a bias is added, and a sink is not scaled with the values."""
    for shape in ("bias by token", "sinks, window"):
        for decodes, run in ((True, run_decode), (False, run_prefill)):
            batch = batch_of(rng, shape, [Chunk(int(rng.integers(90)), 1)], decodes=decodes, kv=kv)
            assert_close(run(batch), batch)


@pytest.mark.parametrize("kv", ["int8", "float8"])
def test_prefill_reads_quantized_caches(rng: np.random.Generator, kv: str) -> None:
    batch = random_batch(rng, variant_of("grouped", kv, decodes=False), [Chunk(50, 20), Chunk(0, 9)], np.float16)
    assert_close(run_prefill(batch), batch)


def test_bfloat16_throughout(rng: np.random.Generator) -> None:
    for decodes, run in ((True, run_decode), (False, run_prefill)):
        variant = variant_of("grouped", "bf16", "bf16", decodes=decodes)
        batch = random_batch(rng, variant, [Chunk(70, 1), Chunk(3, 1)], ml_dtypes.bfloat16)
        assert_close(run(batch), batch)


@pytest.mark.parametrize("shape", ["grouped", "seven to one", "sinks, window"])
def test_it_does_not_matter_which_split_is_the_last_nor_how_many_items_nobody_has(
    rng: np.random.Generator, shape: str
) -> None:
    chunks = [Chunk(int(past), 1) for past in (rng.integers(SPLIT), 4 * SPLIT + rng.integers(SPLIT), 2 * SPLIT - 1)]
    batch = batch_of(rng, shape, chunks, decodes=True)
    result = run_decode(batch)
    for _ in range(2):
        with programs_in_any_order(rng):
            again = decode(run_tiled, batch, spare=int(rng.integers(9)))
        assert np.array_equal(again, result)


@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_rows_that_are_ended_are_rounded_as_a_launch_of_their_own_rounds_them(
    rng: np.random.Generator, kind: str
) -> None:
    """By the program that ends the last head, whichever it is; rows of prompts by one launch for their tiles."""
    batch = batch_of(rng, "grouped", [Chunk(int(past), 1) for past in rng.integers(3 * SPLIT, size=5)], decodes=True)
    width, rows = batch.arrays["q"].shape[1], batch.rows
    orders, stored, cuts = (bool(rng.integers(2)) for _ in range(3))
    ways: dict[str, Any] = {"orders": orders, "has_stored": stored, "cuts": cuts and kind == "float8" and not stored}
    variant = quantize_variant(width, kind, **ways, factors="fp32" if rng.integers(2) else None, x="fp16")
    arrays: dict[str, Any] = {"order": rng.permutation(width).astype(np.int32), "stored": np.array([0.01], np.float32)}
    arrays |= {
        "factors": rng.random(width).astype(np.float32),
        "low": np.array([-1], np.float32),
        "high": np.array([0.5], np.float32),
    }

    def results() -> dict[str, Array]:
        return {"levels": np.full((rows, width), 99, np.int8), "level_scales": np.full(rows, np.nan, np.float32)}

    found = results()
    with programs_in_any_order(rng):
        y = decode(run_tiled, batch, rounding=Rounding(variant, {**arrays, **found}))
    assert np.array_equal(y, run_decode(batch))
    apart = results()
    given = {**arrays, "x": y, "y": apart["levels"], "y_scale": apart["level_scales"]}
    interpret("quantize_rows", variant, given, {"rows": rows})
    tiled = results()
    given |= {
        "y": tiled["levels"],
        "y_scale": tiled["level_scales"],
        "tile_begins": np.array([1, 2], np.int32),
        "tile_ends": np.array([2, 5], np.int32),
    }
    interpret("quantize_tiles", tiles_variant(variant), given, {"tiles": 2}, {"parts": 2, "block": width})
    for name, whole in apart.items():
        assert np.array_equal(found[name], whole) and np.array_equal(tiled[name][1:], whole[1:])
        assert np.array_equal(tiled[name][0], results()[name][0], equal_nan=True), "no tile has the first row"


@pytest.mark.parametrize("shape", ["grouped", "sinks, window"])
def test_two_launches_are_attention_too(rng: np.random.Generator, shape: str) -> None:
    """Those of the tensorrt target. A row that is not there is zeros."""
    batch = batch_of(rng, shape, [Chunk(int(past), 1) for past in (9, 70, rng.integers(200))], decodes=True)
    batch.arrays["positions"][0] = -1
    result = decode_in_two(run_tiled, batch)
    assert_close(result, batch)
    assert not result[0].any() and result[1].any()


@pytest.mark.parametrize("shape", ["grouped", "soft cap, window"])
def test_a_decoded_row_is_the_same_in_any_company(rng: np.random.Generator, shape: str) -> None:
    chunks = [Chunk(int(rng.integers(200)), 1) for _ in range(4)]
    batch = batch_of(rng, shape, chunks, decodes=True)
    together = run_decode(batch)
    assert all(np.array_equal(run_decode(batch.take([row]))[0], together[row]) for row in range(4))


@pytest.mark.parametrize("shape", ["grouped", "soft cap, window", "sinks, chunks"])
def test_a_prompt_is_the_same_however_it_is_cut(rng: np.random.Generator, shape: str) -> None:
    length = int(rng.integers(60, 110))
    batch = batch_of(rng, shape, [Chunk(0, length)], decodes=False)
    whole = run_prefill(batch)
    cut = int(rng.integers(1, length))
    parts = []
    for begin, end in ((0, cut), (cut, length)):
        rows = {name: batch.arrays[name][begin:end] for name in ("q", "positions", "sequence_of_row")}
        part = replace(batch, arrays={**batch.arrays, **rows}, chunks=[Chunk(begin, end - begin)])
        parts.append(run_prefill(part))
    assert np.array_equal(np.concatenate(parts), whole)


def test_tiles_cover_every_row_once_and_never_two_chunks(rng: np.random.Generator) -> None:
    lengths = rng.integers(0, 100, 7).tolist()
    begins, ends = prefill_tiles(lengths, 18)
    rows = [row for begin, end in zip(begins, ends, strict=True) for row in range(begin, end)]
    assert rows == list(range(sum(lengths)))
    bounds = set(np.cumsum([0, *lengths]).tolist())
    for begin, end in zip(begins, ends, strict=True):
        assert bounds.isdisjoint(range(begin + 1, end)) and end - begin <= 18

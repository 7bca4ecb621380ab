"""The last steps of sampling: what top_k, top_p and min_p keep, and one draw by inverse CDF in the order of ids."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.sampling_math import (
    INFINITY,
    UNITS,
    key_value,
    order_key,
    philox_uniform,
    weight_units,
)
from inflight.build.gpu_kernels.kernels.sampling_search import (
    DIGITS,
    decided,
    row_max,
    tune_chunk,
)
from inflight.build.gpu_kernels.sampling_chain import CHUNK, COMPILED_CHUNKS, LEVELS
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant
from inflight.engine_format.cuda_facts import PENALTIES

_LEVELS = tl.constexpr(LEVELS)
_PENALTIES = tl.constexpr(PENALTIES)
# Where the last level's counts lie: level 7 % 2.
_LAST = tl.constexpr((LEVELS - 1) % 2)


@triton.jit
def sampling_limit(
    chunk_max,
    chunk_weight,
    counted,
    state,
    temperature,
    top_p,
    limit,
    cut,
    vocab,
    chunk: tl.constexpr,
    chunks: tl.constexpr,
):
    """One program per row, behind the search of top_k: its result to cut int64 [rows, 2], top_p's limit to limit[1].

    `cut` gets the key at which the kept tokens end (-1: none) and how many of those equal to it are kept.
    """
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0)
    used = tl.cdiv(vocab, chunk)
    greatest = row_max(chunk_max, row, used, chunks)
    if (tl.load(temperature + row) > 0.0) & (greatest > -INFINITY):
        k = tl.load(limit + row)
        if k > 0:
            key, above, weight_above = decided(counted, state, k, _LEVELS, row, rows, used, False, chunks)
            total = weight_above + (k - above) * _weight_at(key, greatest, tl.load(temperature + row))
            tl.store(cut + 2 * row, key)
            tl.store(cut + 2 * row + 1, k - above)
        else:
            chunk_id = tl.arange(0, chunks)
            total = tl.sum(tl.load(chunk_weight + row * used + chunk_id, mask=chunk_id < used, other=0), axis=0)
            tl.store(cut + 2 * row, tl.full((), -1, tl.int64))
        p = tl.load(top_p + row)
        if p < 1.0:
            nucleus = tl.ceil(p.to(tl.float64) * total.to(tl.float64)).to(tl.int64)
            tl.store(limit + rows + row, tl.maximum(nucleus, 1))


@triton.jit
def sampling_keep(
    values,
    chunk_max,
    counted,
    state,
    temperature,
    min_p,
    limit,
    cut,
    weights,
    chunk_weight,
    vocab,
    chunk: tl.constexpr,
    chunks: tl.constexpr,
):
    """Program (row, chunk), behind the search of top_p: the weights of dropped tokens become 0, chunk_weight the sums.

    Rows that keep everything are passed over.
    """
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0)
    used = tl.num_programs(1)
    greatest = row_max(chunk_max, row, used, chunks)
    nucleus = tl.load(limit + rows + row)
    least = tl.load(min_p + row)
    searched = (nucleus > 0) | (tl.load(limit + row) > 0)
    if (tl.load(temperature + row) > 0.0) & (greatest > -INFINITY) & (searched | (least > 0.0)):
        last = tl.load(cut + 2 * row)
        equals = tl.load(cut + 2 * row + 1)
        if nucleus > 0:
            key, _, weight_above = decided(counted, state, nucleus, _LEVELS, row, rows, used, True, chunks)
            weight = tl.maximum(_weight_at(key, greatest, tl.load(temperature + row)), 1)
            kept_equals = (nucleus - weight_above + weight - 1) // weight
            equals = tl.where(key == last, tl.minimum(kept_equals, equals), kept_equals)
            last = key
        if searched:
            equals -= _equals_before(counted, last, tl.program_id(1), row, rows, used, chunks)
        token = tl.program_id(1) * chunk + tl.arange(0, chunk)
        inside = token < vocab
        at = row * vocab + token
        key = order_key(tl.load(values + at, mask=inside, other=-INFINITY)).to(tl.int64)
        units = tl.load(weights + at, mask=inside, other=0.0)
        equal = ((key == last) & inside).to(tl.int32)
        kept = (key > last) | ((equal > 0) & (tl.cumsum(equal, axis=0) <= equals))
        units = tl.where(kept & (units >= least * UNITS), units, 0.0)
        tl.store(weights + at, units, mask=inside)
        tl.store(chunk_weight + row * used + tl.program_id(1), tl.sum(units.to(tl.int64), axis=0))


@triton.jit
def sampling_draw(
    values,
    chunk_max,
    weights,
    chunk_weight,
    temperature,
    seed,
    position,
    adjusts,
    slot,
    counts,
    tokens,
    vocab,
    chunk: tl.constexpr,
    chunks: tl.constexpr,
):
    """One program per row: tokens int32 [rows], drawn by (seed, position), int64 [rows] each, or the greatest's first.

    Greedy rows need `values` and `chunk_max` alone. Of rows with PENALTIES in adjusts int32 [rows], the token is
    counted in counts int32 [slots, vocab] of their slot, int32 [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    chunk_id = tl.arange(0, chunks)
    used = tl.cdiv(vocab, chunk)
    greatest = row_max(chunk_max, row, used, chunks)
    lane = tl.arange(0, chunk)
    if (tl.load(temperature + row) > 0.0) & (greatest > -INFINITY):
        sums = tl.load(chunk_weight + row * used + chunk_id, mask=chunk_id < used, other=0)
        total = tl.sum(sums, axis=0)
        uniform = philox_uniform(tl.load(seed + row), tl.load(position + row))
        target = tl.minimum((uniform * total.to(tl.float64)).to(tl.int64), total - 1)
        upto = tl.cumsum(sums, axis=0)
        mine = tl.min(tl.where(upto > target, chunk_id, chunks - 1), axis=0)
        target -= tl.sum(tl.where(chunk_id < mine, sums, 0), axis=0)
        token = mine * chunk + lane
        units = tl.load(weights + row * vocab + token, mask=token < vocab, other=0.0).to(tl.int64)
        found = tl.cumsum(units, axis=0) > target
    else:
        maxima = tl.load(chunk_max + row * used + chunk_id, mask=chunk_id < used, other=-INFINITY)
        mine = tl.min(tl.where(maxima == greatest, chunk_id, chunks - 1), axis=0)
        token = mine * chunk + lane
        found = tl.load(values + row * vocab + token, mask=token < vocab, other=-INFINITY) == greatest
    chosen = tl.min(tl.where(found, token, vocab - 1), axis=0)
    tl.store(tokens + row, chosen)
    if (tl.load(adjusts + row) & _PENALTIES) != 0:
        tl.atomic_add(counts + tl.load(slot + row).to(tl.int64) * vocab + chosen, 1, sem="relaxed")


@triton.jit
def _weight_at(key, greatest, temperature):
    """The weight (int64) of a token with this order key (int64)."""
    return weight_units(key_value(key.to(tl.uint32)), greatest, temperature).to(tl.int64)


@triton.jit
def _equals_before(counted, key, mine, row, rows, used, chunks: tl.constexpr):
    """How many tokens of earlier chunks have the order key at which the row's last search ended."""
    chunk_id = tl.arange(0, chunks)
    place = _LAST * rows + row
    at = counted + (place * 2 * used + chunk_id) * DIGITS + (key & (DIGITS - 1))
    return tl.sum(tl.load(at, mask=chunk_id < tl.minimum(mine, used), other=0), axis=0)


def tune_row(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=8, constants={"chunk": CHUNK})


def tune_limit(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"chunk": CHUNK})


_SEARCH = (Argument("counted", "*i64"), Argument("state", "*i64"), Argument("temperature", "*fp32"))
_VARIANTS = tuple(Variant({}, {"chunks": count}) for count in COMPILED_CHUNKS)

SPECS = (
    KernelSpec(
        module=__name__,
        function="sampling_limit",
        arguments=(
            Argument("chunk_max", "*fp32"),
            Argument("chunk_weight", "*i64"),
            *_SEARCH,
            Argument("top_p", "*fp32"),
            Argument("limit", "*i64"),
            Argument("cut", "*i64"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),),),
        tune=tune_limit,
        variants=_VARIANTS,
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="sampling_keep",
        arguments=(
            Argument("values", "*fp32"),
            Argument("chunk_max", "*fp32"),
            *_SEARCH,
            Argument("min_p", "*fp32"),
            Argument("limit", "*i64"),
            Argument("cut", "*i64"),
            Argument("weights", "*fp32"),
            Argument("chunk_weight", "*i64"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("vocab", "chunk"),)),
        tune=tune_chunk,
        variants=_VARIANTS,
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="sampling_draw",
        arguments=(
            Argument("values", "*fp32"),
            Argument("chunk_max", "*fp32"),
            Argument("weights", "*fp32"),
            Argument("chunk_weight", "*i64"),
            Argument("temperature", "*fp32"),
            Argument("seed", "*i64"),
            Argument("position", "*i64"),
            Argument("adjusts", "*i32"),
            Argument("slot", "*i32"),
            Argument("counts", "*i32"),
            Argument("tokens", "*i32"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),),),
        tune=tune_row,
        variants=_VARIANTS,
        decode_path=True,
    ),
)

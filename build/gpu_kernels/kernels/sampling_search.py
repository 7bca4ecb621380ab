"""The limits of top_k and top_p, by radix selection over all chunks of a row at once.

Tokens are ordered by value, the lower id first among equals. A filter keeps the tokens before which less than `limit`
has been counted: top_k counts tokens, top_p counts weight. Eight launches find the value at which that ends, four bits
of its order key each. All counts are integers, so their order does not matter.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.sampling_math import INFINITY, order_key, weight_units
from inflight.build.gpu_kernels.sampling_chain import CHUNK, COMPILED_CHUNKS
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant

DIGITS = tl.constexpr(16)


@triton.jit
def sampling_weigh(
    values,
    chunk_max,
    temperature,
    top_k,
    weights,
    chunk_weight,
    limit,
    vocab,
    chunk: tl.constexpr,
    chunks: tl.constexpr,
):
    """Program (row, chunk): weights float32 [rows, vocab] in units of 2^-32, their sums int64 [rows, chunks].

    Also sets limit int64 [2, rows] for the search of top_k: 0 where there is none. Greedy rows, and rows without a
    number, are passed over with limits of 0. `chunks` is a power of two of at least the number of chunks.
    """
    row = tl.program_id(0).to(tl.int64)
    greatest = row_max(chunk_max, row, tl.num_programs(1), chunks)
    draws = (tl.load(temperature + row) > 0.0) & (greatest > -INFINITY)
    k = tl.load(top_k + row)
    if tl.program_id(1) == 0:
        tl.store(limit + row, tl.where(draws & (k > 0) & (k < vocab), k, 0).to(tl.int64))
        tl.store(limit + tl.num_programs(0) + row, tl.zeros((), tl.int64))
    if draws:
        token = tl.program_id(1) * chunk + tl.arange(0, chunk)
        inside = token < vocab
        value = tl.load(values + row * vocab + token, mask=inside, other=-INFINITY)
        units = weight_units(value, greatest, tl.load(temperature + row))
        tl.store(weights + row * vocab + token, units, mask=inside)
        total = tl.sum(tl.where(inside, units, 0.0).to(tl.int64), axis=0)
        tl.store(chunk_weight + row * tl.num_programs(1) + tl.program_id(1), total)


@triton.jit
def sampling_narrow(
    values,
    weights,
    limit,
    counted,
    state,
    level,
    vocab,
    by_weight: tl.constexpr,
    chunk: tl.constexpr,
    chunks: tl.constexpr,
    block: tl.constexpr,
):
    """Program (row, chunk): counts the chunk's tokens that share the key's prefix by its digit at `level`.

    counted int64 [2, rows, 2, chunks, 16]: tokens and weight by digit, written at place level % 2, read at the other;
    state int64 [2, rows, 3] likewise: the digits found before `level`, tokens and weight above them. `level` is 0 .. 7.
    limit int64 [2, rows]: that of tokens, that of weight; a row whose limit is 0 is passed over.
    """
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0)
    wanted = tl.load(limit + (rows if by_weight else 0) + row)
    if wanted > 0:
        prefix = tl.zeros((), tl.int64)
        tokens_above = tl.zeros((), tl.int64)
        weight_above = tl.zeros((), tl.int64)
        if level > 0:
            prefix, tokens_above, weight_above = decided(
                counted, state, wanted, level, row, rows, tl.num_programs(1), by_weight, chunks
            )
        place = (level % 2) * rows + row
        if tl.program_id(1) == 0:
            tl.store(state + place * 3, prefix)
            tl.store(state + place * 3 + 1, tokens_above)
            tl.store(state + place * 3 + 2, weight_above)
        tokens = tl.zeros((block, DIGITS), tl.int32)
        amount = tl.zeros((block, DIGITS), tl.int64)
        for start in range(0, chunk, block):
            token = tl.program_id(1) * chunk + start + tl.arange(0, block)
            inside = token < vocab
            key = order_key(tl.load(values + row * vocab + token, mask=inside, other=-INFINITY)).to(tl.int64)
            units = tl.load(weights + row * vocab + token, mask=inside, other=0.0).to(tl.int64)
            digit = tl.where(inside & (key >> (32 - 4 * level) == prefix), (key >> (28 - 4 * level)) & 15, -1)
            hit = digit.to(tl.int32)[:, None] == tl.arange(0, DIGITS)[None, :]
            tokens += hit.to(tl.int32)
            amount += tl.where(hit, units[:, None], 0)
        target = counted + (place * 2 * tl.num_programs(1) + tl.program_id(1)) * DIGITS + tl.arange(0, DIGITS)
        tl.store(target, tl.sum(tokens, axis=0).to(tl.int64))
        tl.store(target + tl.num_programs(1) * DIGITS, tl.sum(amount, axis=0))


@triton.jit
def decided(counted, state, limit, level, row, rows, used, by_weight: tl.constexpr, chunks: tl.constexpr):
    """After `level` launches: the digits of the key so far, and the tokens and the weight above it (int64)."""
    place = ((level - 1) % 2) * rows + row
    chunk_id = tl.arange(0, chunks)
    at = counted + place * 2 * used * DIGITS + chunk_id[:, None] * DIGITS + tl.arange(0, DIGITS)[None, :]
    inside = (chunk_id < used)[:, None]
    tokens = tl.sum(tl.load(at, mask=inside, other=0), axis=0)
    weight = tl.sum(tl.load(at + used * DIGITS, mask=inside, other=0), axis=0)
    tokens_above = tl.load(state + place * 3 + 1)
    weight_above = tl.load(state + place * 3 + 2)
    above = tl.arange(0, DIGITS)[None, :] > tl.arange(0, DIGITS)[:, None]
    tokens_over = tokens_above + tl.sum(tl.where(above, tokens[None, :], 0), axis=1)
    weight_over = weight_above + tl.sum(tl.where(above, weight[None, :], 0), axis=1)
    reached = (weight_over + weight if by_weight else tokens_over + tokens) >= limit
    digit = tl.maximum(tl.max(tl.where(reached, tl.arange(0, DIGITS), -1), axis=0), 0)
    chosen = tl.arange(0, DIGITS) == digit
    prefix = tl.load(state + place * 3) * 16 + digit
    return prefix, tl.sum(tl.where(chosen, tokens_over, 0), axis=0), tl.sum(tl.where(chosen, weight_over, 0), axis=0)


@triton.jit
def row_max(chunk_max, row, used, chunks: tl.constexpr):
    """The greatest value of a row, from those of its `used` chunks."""
    chunk_id = tl.arange(0, chunks)
    return tl.max(tl.load(chunk_max + row * used + chunk_id, mask=chunk_id < used, other=-INFINITY), axis=0)


def tune_chunk(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=8, constants={"chunk": CHUNK})


def tune_narrow(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"chunk": CHUNK, "block": 128})


SPECS = (
    KernelSpec(
        module=__name__,
        function="sampling_weigh",
        arguments=(
            Argument("values", "*fp32"),
            Argument("chunk_max", "*fp32"),
            Argument("temperature", "*fp32"),
            Argument("top_k", "*i32"),
            Argument("weights", "*fp32"),
            Argument("chunk_weight", "*i64"),
            Argument("limit", "*i64"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("vocab", "chunk"),)),
        tune=tune_chunk,
        variants=tuple(Variant({}, {"chunks": count}) for count in COMPILED_CHUNKS),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="sampling_narrow",
        arguments=(
            Argument("values", "*fp32"),
            Argument("weights", "*fp32"),
            Argument("limit", "*i64"),
            Argument("counted", "*i64"),
            Argument("state", "*i64"),
            Argument("level", "i32"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("vocab", "chunk"),)),
        tune=tune_narrow,
        variants=tuple(
            Variant({}, {"chunks": count, "by_weight": by_weight})
            for count in COMPILED_CHUNKS
            for by_weight in (False, True)
        ),
        decode_path=True,
    ),
)

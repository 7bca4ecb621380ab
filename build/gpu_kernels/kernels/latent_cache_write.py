"""Queries and rows of the cache of latent attention (docs/formats/latent_attention.md)."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.paged_cache import inverse_scale, rounded
from inflight.build.gpu_kernels.kernels.rope_cache_write import turn_of
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant
from inflight.build.gpu_kernels.variants import latent_constants, latent_types


@triton.jit
def latent_cache_write(
    q,
    met,
    kv,
    norm,
    cos,
    sin,
    positions,
    sequence_of_row,
    block_tables,
    queries,
    cache,
    scales,
    block_table_stride,
    num_heads: tl.constexpr,
    rank: tl.constexpr,
    rotary_size: tl.constexpr,
    query_size: tl.constexpr,
    tokens_per_block: tl.constexpr,
    epsilon: tl.constexpr,
    cache_format: tl.constexpr,
    padded_rank: tl.constexpr,
    padded_rotary: tl.constexpr,
    heads_at_once: tl.constexpr,
):
    """One program per row and some heads: queries [rows, num_heads * (rank + rotary_size)] = [met | the last
    rotary_size elements of q, turned]; the first heads' program writes [norm(kv's first rank elements) | the others,
    turned].

    q float32 [rows, num_heads * query_size], met float32 [rows, num_heads * rank], kv float32 [rows, rank +
    rotary_size], norm [rank] of any float type; cos, sin float32 [max_seq_len, rotary_size / 2], of which element i
    pairs with i + rotary_size / 2. cache is that of `paged_cache` with one head of rank + rotary_size; scales of INT8
    are written, those of FLOAT8 read. A row of negative position is not there.
    """
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row)
    if position >= 0:
        width: tl.constexpr = rank + rotary_size
        columns = tl.arange(0, padded_rank)
        tail = tl.arange(0, padded_rotary)
        inside = columns < rank
        turns = tail < rotary_size
        turn = turn_of(cos, sin, position, rotary_size, padded_rotary)
        head = tl.program_id(1) * heads_at_once + tl.arange(0, heads_at_once)
        there = (head < num_heads)[:, None]
        heads = (row * num_heads + head)[:, None]
        latents = tl.load(met + heads * rank + columns[None, :], mask=there & inside[None, :], other=0.0)
        turning = q + heads * query_size + (query_size - rotary_size)
        turned = _turned(turning, tail[None, :], there & turns[None, :], turn)
        target = queries + heads * width
        tl.store(target + columns[None, :], latents.to(queries.dtype.element_ty), mask=there & inside[None, :])
        tl.store(target + rank + tail[None, :], turned.to(queries.dtype.element_ty), mask=there & turns[None, :])
        if tl.program_id(1) == 0:
            given = tl.load(kv + row * width + columns, mask=inside, other=0.0)
            spread = tl.sqrt_rn(tl.div_rn(tl.sum(given * given, axis=0), rank * 1.0) + epsilon)
            gain = tl.load(norm + columns, mask=inside, other=0.0).to(tl.float32)
            value = given * tl.div_rn(1.0, spread) * gain
            key = tl.sum(_turned(kv + row * width + rank, tail[None, :], turns[None, :], turn), axis=0)
            block_table = block_tables + tl.load(sequence_of_row + row).to(tl.int64) * block_table_stride
            block = tl.load(block_table + position // tokens_per_block).to(tl.int64)
            slot = block * tokens_per_block + position % tokens_per_block
            greatest = tl.maximum(tl.max(tl.abs(value), axis=0), tl.max(tl.abs(key), axis=0))
            inverse = inverse_scale(scales, slot, greatest, cache_format)
            tl.store(cache + slot * width + columns, rounded(value, inverse, cache, cache_format), mask=inside)
            tl.store(cache + slot * width + rank + tail, rounded(key, inverse, cache, cache_format), mask=turns)


@triton.jit
def _turned(source, tail, turns, turn):
    """float32 [M, padded_rotary] of the elements at `source` [M, 1] or of one row; zeros where `turns` is false."""
    cosine, sine, away = turn
    value = tl.load(source + tail, mask=turns, other=0.0)
    partner = tl.load(source + tail + away[None, :], mask=turns, other=0.0)
    return value * cosine[None, :] + partner * sine[None, :]


def tune(sm: int, variant: Variant) -> Tuning:
    rank, rotary = int(variant.constants["rank"]), int(variant.constants["rotary_size"])
    padded: dict[str, Constant] = {"padded_rank": triton.next_power_of_2(rank)}
    padded["padded_rotary"] = triton.next_power_of_2(rotary)
    return Tuning(num_warps=4, constants={**padded, "heads_at_once": 8})


def latent_write_variant(
    num_heads: int,
    rank: int,
    rotary_size: int,
    query_size: int,
    *,
    kv: str = "bf16",
    act: str = "bf16",
    norm: str = "bf16",
    tokens_per_block: int = 64,
    epsilon: float = 1e-6,
) -> Variant:
    """`query_size`: of a head's query before its matrix of keys. `kv` and `act` as in `attention_variant`."""
    constants = latent_constants(num_heads, rank, rotary_size, kv=kv, tokens_per_block=tokens_per_block)
    constants |= {"query_size": query_size, "epsilon": epsilon}
    return Variant({**latent_types(kv, act), "norm": norm}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="latent_cache_write",
        arguments=(
            Argument("q", "*fp32"),
            Argument("met", "*fp32"),
            Argument("kv", "*fp32"),
            Argument("norm", "*{norm}"),
            Argument("cos", "*fp32"),
            Argument("sin", "*fp32"),
            Argument("positions", "*i32"),
            Argument("sequence_of_row", "*i32"),
            Argument("block_tables", "*i32"),
            Argument("queries", "*{act}"),
            Argument("cache", "*{kv}"),
            Argument("scales", "*fp32"),
            Argument("block_table_stride", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("num_heads", "heads_at_once"),)),
        tune=tune,
        variants=(
            *(latent_write_variant(128, 512, 64, 192, kv=kv) for kv in ("bf16", "float8", "int8")),
            latent_write_variant(20, 33, 6, 47, kv="fp32", act="fp32", norm="fp32"),
        ),
        decode_path=True,
    ),
)

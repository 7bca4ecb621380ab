"""Log probabilities and ranks under the model's own logits: of the chosen or a given token, and of the likeliest."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.sampling_math import (
    INFINITY,
    UNITS,
    place_of,
    sane,
    token_at,
    value_at,
    weight_units,
)
from inflight.build.gpu_kernels.kernels.sampling_search import row_max, tune_chunk
from inflight.build.gpu_kernels.sampling_chain import CHUNK, COMPILED_CHUNKS
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant
from inflight.engine_format.cuda_facts import MOST_REPORTED

_MOST = tl.constexpr(MOST_REPORTED)


@triton.jit
def sampling_logit_max(logits, num_logprobs, logit_max, vocab, chunk: tl.constexpr):
    """Program (row, chunk): logit_max float32 [rows, chunks] of logits [rows, vocab], where num_logprobs[row] >= 0."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(num_logprobs + row) >= 0:
        token = tl.program_id(1) * chunk + tl.arange(0, chunk)
        value = tl.load(logits + row * vocab + token, mask=token < vocab, other=-INFINITY).to(tl.float32)
        tl.store(logit_max + row * tl.num_programs(1) + tl.program_id(1), tl.max(sane(value), axis=0))


@triton.jit
def sampling_rank(
    logits,
    num_logprobs,
    target,
    tokens,
    logit_max,
    logit_weight,
    before,
    leaders,
    vocab,
    chunk: tl.constexpr,
    chunks: tl.constexpr,
):
    """Program (row, chunk): the chunk's share of a row's report, where num_logprobs int32 [rows] is not negative.

    target int32 [rows]: the token to report, or -1 for the one in tokens int32 [rows]. Written, int64: logit_weight
    [rows, chunks], the sum of softmax weights; before [rows, chunks], how many tokens come before the reported one;
    leaders [rows, chunks, MOST_REPORTED], the places of the first num_logprobs tokens (-1: there are no more).
    """
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(num_logprobs + row)
    if wanted >= 0:
        greatest = row_max(logit_max, row, tl.num_programs(1), chunks)
        given = tl.load(target + row)
        reported = tl.where(given >= 0, given, tl.load(tokens + row))
        token = tl.program_id(1) * chunk + tl.arange(0, chunk)
        inside = token < vocab
        value = sane(tl.load(logits + row * vocab + token, mask=inside, other=-INFINITY).to(tl.float32))
        chosen = sane(tl.load(logits + row * vocab + reported).to(tl.float32))
        part = row * tl.num_programs(1) + tl.program_id(1)
        units = weight_units(value, tl.where(greatest > -INFINITY, greatest, 0.0), 1.0)
        tl.store(logit_weight + part, tl.sum(tl.where(inside, units, 0.0).to(tl.int64), axis=0))
        earlier = inside & ((value > chosen) | ((value == chosen) & (token < reported)))
        tl.store(before + part, tl.sum(earlier.to(tl.int64), axis=0))
        place = tl.where(inside, place_of(value, token), -1)
        for rank in range(tl.minimum(wanted, _MOST)):
            first = tl.max(place, axis=0)
            tl.store(leaders + part * _MOST + rank, first)
            place = tl.where(place == first, -1, place)


@triton.jit
def sampling_report(
    logits,
    num_logprobs,
    target,
    tokens,
    logit_max,
    logit_weight,
    before,
    leaders,
    logprobs,
    ranks,
    top_ids,
    top_logprobs,
    vocab,
    chunk: tl.constexpr,
    chunks: tl.constexpr,
):
    """One program per row: logprobs float32 and ranks int32 (from 1) [rows] of the reported token.

    The num_logprobs likeliest, in order, to top_ids int32 and top_logprobs float32 [rows, MOST_REPORTED]; entries
    behind the last token of a small vocabulary are left alone. Rows of negative num_logprobs are passed over.
    """
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(num_logprobs + row)
    if wanted >= 0:
        chunk_id = tl.arange(0, chunks)
        used = tl.cdiv(vocab, chunk)
        there = chunk_id < used
        greatest = row_max(logit_max, row, used, chunks)
        total = tl.sum(tl.load(logit_weight + row * used + chunk_id, mask=there, other=0), axis=0)
        log_sum = tl.log(total.to(tl.float64) / UNITS)
        given = tl.load(target + row)
        reported = tl.where(given >= 0, given, tl.load(tokens + row))
        chosen = sane(tl.load(logits + row * vocab + reported).to(tl.float32))
        tl.store(logprobs + row, _logprob(chosen, greatest, log_sum))
        earlier = tl.sum(tl.load(before + row * used + chunk_id, mask=there, other=0), axis=0)
        tl.store(ranks + row, (earlier + 1).to(tl.int32))
        rank_id = tl.arange(0, _MOST)
        at = leaders + (row * used + chunk_id[:, None]) * _MOST + rank_id[None, :]
        place = tl.load(at, mask=there[:, None] & (rank_id < wanted)[None, :], other=-1)
        for rank in range(tl.minimum(tl.minimum(wanted, _MOST), vocab)):
            first = tl.max(tl.max(place, axis=1), axis=0)
            tl.store(top_ids + row * _MOST + rank, token_at(first))
            tl.store(top_logprobs + row * _MOST + rank, _logprob(value_at(first), greatest, log_sum))
            place = tl.where(place == first, -1, place)


@triton.jit
def _logprob(value, greatest, log_sum):
    """float32; -infinity for a token that cannot be chosen."""
    finite = tl.where(value > -INFINITY, value, 0.0).to(tl.float64)
    above = tl.where(greatest > -INFINITY, greatest, 0.0).to(tl.float64)
    return tl.where(value > -INFINITY, (finite - above - log_sum).to(tl.float32), -INFINITY)


def tune_max(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=8, constants={"chunk": CHUNK})


def tune_report(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=8, constants={"chunk": CHUNK})


_ROWS = (Argument("logits", "*{logits}"), Argument("num_logprobs", "*i32"))
_REPORTED = (Argument("target", "*i32"), Argument("tokens", "*i32"), Argument("logit_max", "*fp32"))
_PARTS = (Argument("logit_weight", "*i64"), Argument("before", "*i64"), Argument("leaders", "*i64"))
_RESULTS = (
    Argument("logprobs", "*fp32"),
    Argument("ranks", "*i32"),
    Argument("top_ids", "*i32"),
    Argument("top_logprobs", "*fp32"),
)
_GRID = ((Extent("rows"),), (Extent("vocab", "chunk"),))
_VARIANTS = tuple(Variant({"logits": "fp32"}, {"chunks": count}) for count in COMPILED_CHUNKS)
_VOCAB = Argument("vocab", "i32")

SPECS = (
    KernelSpec(
        __name__,
        "sampling_logit_max",
        (*_ROWS, Argument("logit_max", "*fp32"), _VOCAB),
        _GRID,
        tune_max,
        (Variant({"logits": "fp32"}),),
    ),
    KernelSpec(__name__, "sampling_rank", (*_ROWS, *_REPORTED, *_PARTS, _VOCAB), _GRID, tune_chunk, _VARIANTS),
    KernelSpec(
        __name__,
        "sampling_report",
        (*_ROWS, *_REPORTED, *_PARTS, *_RESULTS, _VOCAB),
        ((Extent("rows"),),),
        tune_report,
        _VARIANTS,
    ),
)

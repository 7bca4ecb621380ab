"""The first steps of sampling: masks, bias and bans, then penalties (Keskar et al., 2019, "CTRL"), over [rows, vocab]
logits.

A row's biases are scattered into a plane that is zero between steps, so the pass over the vocabulary finds what it
needs at the token's own place; that pass leaves it zero again. What penalties need is counted as tokens are chosen
(sampling_counts.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.sampling_counts import IN_PROMPT
from inflight.build.gpu_kernels.kernels.sampling_math import INFINITY, sane
from inflight.build.gpu_kernels.sampling_chain import CHUNK
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant
from inflight.engine_format.cuda_facts import LISTS, MASK, PENALTIES

_SCATTER_BLOCK = 1024
_LISTS = tl.constexpr(LISTS)
_MASK = tl.constexpr(MASK)
_PENALTIES = tl.constexpr(PENALTIES)


@triton.jit
def sampling_scatter(bias_ids, bias_values, bias_start, bias, vocab, block: tl.constexpr):
    """One program per row: its biases to `bias` float32 [rows, vocab].

    bias_ids int32 and bias_values float32: those of all rows, row r's at bias_start[r] .. bias_start[r + 1] - 1. A
    token has one bias (a ban is -infinity); ids outside the vocabulary are passed over.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, block)
    first = tl.load(bias_start + row)
    length = tl.load(bias_start + row + 1) - first
    for start in range(0, length, block):
        at = start + lane
        token = tl.load(bias_ids + first + at, mask=at < length, other=-1)
        value = tl.load(bias_values + first + at, mask=at < length, other=0.0)
        tl.store(bias + row * vocab + token, value, mask=(token >= 0) & (token < vocab))


@triton.jit
def sampling_adjust(
    logits,
    adjusts,
    slot,
    repetition_penalty,
    frequency_penalty,
    presence_penalty,
    allowed,
    counts,
    bias,
    values,
    chunk_max,
    vocab,
    chunk: tl.constexpr,
):
    """Program (row, chunk): values = the logits after mask, bias and penalties, chunk_max = the greatest of the chunk.

    logits [rows, vocab], any float type; adjusts int32 [rows]: LISTS for rows that sampling_scatter had something for
    (the others' biases are not read), MASK for rows whose tokens are masked, PENALTIES for rows with penalties, float32
    [rows], on what counts int32 [slots, vocab] has of their slot, int32 [rows]; allowed int32 [rows,
    ceil(vocab / 32)]: a bit for each token, the lowest first; values float32 [rows, vocab]; chunk_max float32 [rows,
    chunks].
    """
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * chunk + tl.arange(0, chunk)
    inside = token < vocab
    at = row * vocab + token
    value = sane(tl.load(logits + at, mask=inside, other=-INFINITY).to(tl.float32))
    kinds = tl.load(adjusts + row)
    if (kinds & _MASK) != 0:
        word = tl.load(allowed + row * tl.cdiv(vocab, 32) + token // 32, mask=inside, other=0)
        value = tl.where(((word >> (token % 32)) & 1) != 0, value, -INFINITY)
    if (kinds & _LISTS) != 0:
        value = sane(value + tl.load(bias + at, mask=inside, other=0.0))
        tl.store(bias + at, 0.0, mask=inside)
    if (kinds & _PENALTIES) != 0:
        seen = tl.load(counts + tl.load(slot + row).to(tl.int64) * vocab + token, mask=inside, other=0)
        count = seen & (IN_PROMPT - 1)
        repetition = tl.load(repetition_penalty + row)
        penalized = tl.where(value > 0.0, tl.div_rn(value, repetition), value * repetition)
        penalized -= tl.load(frequency_penalty + row) * count.to(tl.float32)
        penalized -= tl.where(count > 0, tl.load(presence_penalty + row), 0.0)
        value = tl.where(seen != 0, sane(penalized), value)
    tl.store(values + at, value, mask=inside)
    tl.store(chunk_max + row * tl.num_programs(1) + tl.program_id(1), tl.max(value, axis=0))


def tune_scatter(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": _SCATTER_BLOCK})


def tune_chunk(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=8, constants={"chunk": CHUNK})


SPECS = (
    KernelSpec(
        module=__name__,
        function="sampling_scatter",
        arguments=(
            Argument("bias_ids", "*i32"),
            Argument("bias_values", "*fp32"),
            Argument("bias_start", "*i32"),
            Argument("bias", "*fp32"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),),),
        tune=tune_scatter,
        variants=(Variant(),),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="sampling_adjust",
        arguments=(
            Argument("logits", "*{logits}"),
            Argument("adjusts", "*i32"),
            Argument("slot", "*i32"),
            Argument("repetition_penalty", "*fp32"),
            Argument("frequency_penalty", "*fp32"),
            Argument("presence_penalty", "*fp32"),
            Argument("allowed", "*i32"),
            Argument("counts", "*i32"),
            Argument("bias", "*fp32"),
            Argument("values", "*fp32"),
            Argument("chunk_max", "*fp32"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("vocab", "chunk"),)),
        tune=tune_chunk,
        variants=(Variant({"logits": "fp32"}),),
        decode_path=True,
    ),
)

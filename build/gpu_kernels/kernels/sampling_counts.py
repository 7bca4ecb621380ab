"""How often each token is in a sequence, kept for each slot from step to step: what penalties need.

A slot is filled from a sequence's tokens when that is new there, and from then on by the launch that chooses the next
one (sampling_draw), so that a step may be launched before the host knows the token of the step before it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.sampling_chain import CHUNK
from inflight.build.gpu_kernels.spec import Argument, Extent, KernelSpec, Tuning, Variant
from inflight.engine_format.cuda_facts import ANEW

# Beside the number of times that a token was put out: it is in the prompt.
IN_PROMPT = tl.constexpr(1 << 30)
_ANEW = tl.constexpr(ANEW)
_BLOCK, _PARTS = 1024, 8


@triton.jit
def sampling_forget(adjusts, slot, counts, vocab, chunk: tl.constexpr):
    """Program (row, chunk): counts int32 [slots, vocab] become 0 in the slot (int32 [rows]) of rows with ANEW in
    adjusts int32 [rows]."""
    row = tl.program_id(0)
    if (tl.load(adjusts + row) & _ANEW) != 0:
        token = tl.program_id(1) * chunk + tl.arange(0, chunk)
        tl.store(counts + tl.load(slot + row).to(tl.int64) * vocab + token, 0, mask=token < vocab)


@triton.jit
def sampling_count(
    history, history_start, prompt_length, slot, counts, vocab, block: tl.constexpr, parts: tl.constexpr
):
    """Program (row, part of its tokens): counts int32 [slots, vocab] of its slot (int32 [rows]) get its tokens.

    history int32: the tokens of all rows that are not counted yet, row r's at history_start[r] ..
    history_start[r + 1] - 1, of which the first prompt_length[r] belong to the prompt. Ids outside the vocabulary are
    passed over. The order in which tokens are counted changes nothing.
    """
    row = tl.program_id(0)
    first = tl.load(history_start + row)
    length = tl.load(history_start + row + 1) - first
    prompt = tl.load(prompt_length + row)
    mine = counts + tl.load(slot + row).to(tl.int64) * vocab
    for start in range(tl.program_id(1) * block, length, parts * block):
        at = start + tl.arange(0, block)
        token = tl.load(history + first + at, mask=at < length, other=-1)
        known = (token >= 0) & (token < vocab)
        tl.atomic_or(mine + token, IN_PROMPT, mask=known & (at < prompt), sem="relaxed")
        tl.atomic_add(mine + token, 1, mask=known & (at >= prompt), sem="relaxed")


def tune_forget(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=8, constants={"chunk": CHUNK})


def tune_count(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": _BLOCK, "parts": _PARTS})


SPECS = (
    KernelSpec(
        module=__name__,
        function="sampling_forget",
        arguments=(
            Argument("adjusts", "*i32"),
            Argument("slot", "*i32"),
            Argument("counts", "*i32"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("vocab", "chunk"),)),
        tune=tune_forget,
        variants=(Variant(),),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="sampling_count",
        arguments=(
            Argument("history", "*i32"),
            Argument("history_start", "*i32"),
            Argument("prompt_length", "*i32"),
            Argument("slot", "*i32"),
            Argument("counts", "*i32"),
            Argument("vocab", "i32"),
        ),
        grid=((Extent("rows"),), (Extent("parts"),)),
        tune=tune_count,
        variants=(Variant(),),
        decode_path=True,
    ),
)

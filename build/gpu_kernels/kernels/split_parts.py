"""Attention of generated tokens in one launch: a list of all rows' splits, and parts that the last to arrive combines.

A launch has an item for each split of each row's context, so that a short one costs no program of a long one beside it.
A row with one split is finished by its program. Of several, each program writes its part, and whichever is the last to
have done so adds them in order from the first to the last: which one that is changes nothing. Long contexts are added
in two steps: groups of `group_splits` parts, counted from split 0, and then what they made, each by its last to arrive.
"""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.online_softmax import with_sink
from inflight.build.gpu_kernels.spec import Argument

# Numbers of parts of all heads of a program that are read at once.
_AT_ONCE = 8192
# Splits of a group, part of what decides a result's bits.
GROUP_SPLITS = 16
_NEVER = tl.constexpr(2147483647)


@triton.jit
def row_of_item(item, first_items, rows, most_rows: tl.constexpr):
    """(the row of this launch to which the item belongs, the number of the row's first item in the launch).

    first_items int32 [rows]: how many items of the step lie in front of each row's. Items behind the last are splits of
    the last row, which it does not have. `most_rows`, a power of two, is at least `rows`.
    """
    number = tl.arange(0, most_rows)
    before = tl.load(first_items)
    begun = tl.load(first_items + number, mask=number < rows, other=_NEVER) <= item + before
    row = tl.sum(begun.to(tl.int32), axis=0) - 1
    return row, tl.load(first_items + row) - before


@triton.jit
def last_to_arrive(arrived, count):
    """Whether all of the `count` programs that share the counter have come here, this one as the last. What they wrote
    before is then there, and the counter is zero for the next launch."""
    tl.debug_barrier()
    last = tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu") == count - 1
    if last:
        tl.store(arrived, 0)
    return last


@triton.jit
def write_part(parts, state, item, head, there, num_heads: tl.constexpr, size: tl.constexpr, padded: tl.constexpr):
    """What a split makes of the heads `head` [M], `there` saying which there are: state = (maximum [M], total [M],
    output [M, padded]) to parts = (partials [items, num_heads, size], maxima, totals [items, num_heads]), float32."""
    partials, maxima, totals = parts
    maximum, total, output = state
    columns = tl.arange(0, padded)
    at = item.to(tl.int64) * num_heads + head
    tl.store(maxima + at, maximum, mask=there)
    tl.store(totals + at, total, mask=there)
    inside = there[:, None] & (columns < size)[None, :]
    tl.store(partials + at[:, None] * size + columns[None, :], output, mask=inside)


@triton.jit
def combined(
    parts,
    which,
    head,
    there,
    num_heads: tl.constexpr,
    size: tl.constexpr,
    padded: tl.constexpr,
    at_once: tl.constexpr,
):
    """The state of heads `head` [M] out of some parts of a row, `at_once` at a time, counted from part 0.

    which = (the row's first item, first, end, stride, floor): parts first .. end, of which i lies where that of the
    split i * stride does, but not in front of the split `floor`.
    """
    first_item, first, end, stride, floor = which
    partials, maxima, totals = parts
    columns = tl.arange(0, padded)
    maximum = tl.full([head.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([head.shape[0]], tl.float32)
    output = tl.zeros([head.shape[0], padded], tl.float32)
    for start in range(first // at_once * at_once, end, at_once):
        part = start + tl.arange(0, at_once)
        inside = ((part >= first) & (part < end))[:, None] & there[None, :]
        at = (first_item + tl.maximum(part * stride, floor)).to(tl.int64)[:, None] * num_heads + head[None, :]
        # Other programs have written it meanwhile.
        greatest_of = tl.load(maxima + at, mask=inside, other=float("-inf"), cache_modifier=".cg")
        total_of = tl.load(totals + at, mask=inside, other=0.0, cache_modifier=".cg")
        within = inside[:, :, None] & (columns < size)[None, None, :]
        places = partials + at[:, :, None] * size + columns[None, None, :]
        output_of = tl.load(places, mask=within, other=0.0, cache_modifier=".cg")
        greatest = tl.maximum(maximum, tl.max(greatest_of, axis=0))
        base = tl.where(greatest == float("-inf"), 0.0, greatest)
        weights = tl.exp2(greatest_of - base[None, :])
        decay = tl.exp2(maximum - base)
        total = total * decay + tl.sum(weights * total_of, axis=0)
        output = output * decay[:, None] + tl.sum(weights[:, :, None] * output_of, axis=0)
        maximum = greatest
    return maximum, total, output


@triton.jit
def settled(
    parts,
    arrived,
    place,
    span,
    head,
    there,
    sizes: tl.constexpr,
    at_once: tl.constexpr,
    group_splits: tl.constexpr,
):
    """(whether this program, whose part is written, is the last of its row's, the state of heads `head` [M] then).

    place = (the row's first item, programs of an item, which of them this is); span = (this split, the row's first and
    last split); sizes = (num_heads, size, padded). arrived int32 [items, programs of an item, 2]: of a group's first
    split how many of the group have arrived, of a row's how many groups.
    """
    first_item, count, which = place
    split, least, last = span
    num_heads: tl.constexpr = sizes[0]
    size: tl.constexpr = sizes[1]
    padded: tl.constexpr = sizes[2]
    lower = tl.maximum(split // group_splits * group_splits, least)
    end = tl.minimum(split // group_splits * group_splits + group_splits, last + 1)
    maximum = tl.zeros([head.shape[0]], tl.float32)
    total = tl.zeros([head.shape[0]], tl.float32)
    output = tl.zeros([head.shape[0], padded], tl.float32)
    finished = last_to_arrive(arrived + ((first_item + lower) * count + which) * 2, end - lower)
    if finished:
        members = (first_item, lower, end, 1, 0)
        maximum, total, output = combined(parts, members, head, there, num_heads, size, padded, at_once)
        first_group, end_group = least // group_splits, last // group_splits + 1
        if end_group - first_group > 1:
            # Nobody else reads this group's parts any more.
            state = (maximum, total, output)
            write_part(parts, state, first_item + lower, head, there, num_heads, size, padded)
            counter = arrived + ((first_item + least) * count + which) * 2 + 1
            finished = last_to_arrive(counter, end_group - first_group)
            if finished:
                groups = (first_item, first_group, end_group, group_splits, least)
                maximum, total, output = combined(parts, groups, head, there, num_heads, size, padded, at_once)
    return finished, maximum, total, output


@triton.jit
def write_heads(
    y,
    sinks,
    state,
    row,
    head,
    there,
    num_heads: tl.constexpr,
    size: tl.constexpr,
    padded: tl.constexpr,
    has_sinks: tl.constexpr,
):
    """y [rows, num_heads * size] of a row's heads out of their state; sinks float32 [num_heads] are one score more of
    each, if has_sinks."""
    maximum, total, output = state
    columns = tl.arange(0, padded)
    if has_sinks:
        decay, total = with_sink(maximum, total, tl.load(sinks + head, mask=there, other=0.0))
        output = output * decay[:, None]
    result = output / tl.where(total == 0.0, 1.0, total)[:, None]
    places = y + (row.to(tl.int64) * num_heads + head)[:, None] * size + columns[None, :]
    tl.store(places, result.to(y.dtype.element_ty), mask=there[:, None] & (columns < size)[None, :])


def parts_at_once(heads: int, padded: int) -> int:
    """`at_once` of `combined`, a power of two, for so many heads of a program."""
    return max(1, _AT_ONCE // (heads * padded))


LISTED = (Argument("first_items", "*i32"),)
PARTS = (
    *(Argument(name, "*fp32") for name in ("partials", "maxima", "totals")),
    Argument("arrived", "*i32"),
    Argument("y", "*{act}"),
    Argument("block_table_stride", "i32"),
    Argument("rows", "i32"),
)

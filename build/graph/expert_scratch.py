"""The scratch memory of a mixture of experts in the workspace of the cpu target."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from inflight.build.graph.quantized_rows import row_bytes

_LINE = 64
# Of kernels/router.h: an expert_group.
_GROUP_BYTES = 12


class ExpertRows(NamedTuple):
    """The types in which rows meet the two products of an expert; where they are integers, each has a scale."""

    outer: ir.DataType
    inner: ir.DataType
    quantized: bool = False


def scratch_row_bytes(count: int, top_k: int, hidden: int, size: int, rows: ExpertRows) -> int:
    """Bytes for each row of a step: those of its choices, and for every row those of all experts, of which the kernel
    (lay_out_experts of kernels/experts.h) has but one.
    """
    of_choices = [4, 4, 4, 4, row_bytes(hidden, rows.outer), row_bytes(size, rows.inner), 4 * hidden]
    if rows.quantized:
        of_choices += [4 * size, 4, 4]
    of_experts = (4 * count, _GROUP_BYTES * count, 8 * (count + 1), 8 * (count + 1), 4)
    return sum(map(_lines, (*(top_k * each for each in of_choices), *of_experts)))


def _lines(count: int) -> int:
    return -(-count // _LINE) * _LINE

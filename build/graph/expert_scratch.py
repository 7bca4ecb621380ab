"""The scratch memory of a mixture of experts in the workspace of the cpu target."""

from __future__ import annotations

_LINE = 64
# Of kernels/router.h: an expert_group.
_GROUP_BYTES = 12


def scratch_row_bytes(count: int, top_k: int, hidden: int, size: int, act_bytes: int) -> int:
    """Bytes for each row of a step: those of its choices, and for every row those of all experts, of which the kernel
    (lay_out_experts of kernels/experts.h) has but one.
    """
    of_choices = (4, 4, 4, 4, act_bytes * hidden, act_bytes * size, 4 * hidden)
    of_experts = (4 * count, _GROUP_BYTES * count, 8 * (count + 1), 8 * (count + 1), 4)
    return sum(map(_lines, (*(top_k * each for each in of_choices), *of_experts)))


def _lines(count: int) -> int:
    return -(-count // _LINE) * _LINE

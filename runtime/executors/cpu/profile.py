"""Profile of a compiled step: seconds, operations and bytes of every operator."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from inflight.engine_format.cpu_abi import Operator
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch


@dataclass(frozen=True)
class OperatorProfile:
    """One operator over all profiled steps.

    `kind` is the operator's type in docs/formats/operators.md ("Sampling" for the last), `name` the value that it
    computes. `seconds` last from the end of the operator before it until every thread has ended this one. `flops` are
    the multiplications and additions of its products, `bytes` what it reads and writes at least: its weights once a
    step,
    its rows, and the cached tokens that its sequences see.
    """

    kind: str
    name: str
    seconds: float
    flops: int
    bytes: int


class CpuProfiler:
    """Adds up the work of steps whose times a compiled engine adds to `nanoseconds`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        operators = ctypes.POINTER(Operator)()
        count = library.inflight_operators(ctypes.byref(operators))
        self._operators = [operators[i] for i in range(count)]
        self._flops = [0] * count
        self._bytes = [0] * count
        self.nanoseconds = np.zeros(count, np.uint64)

    def add_step(self, batch: StepBatch) -> None:
        """Count the work of a step that has run."""
        rows = batch.num_tokens, sum(sequence.num_logit_rows for sequence in batch.sequences)
        seen = {window: _seen(batch.sequences, window) for window in {op.window for op in self._operators}}
        for index, op in enumerate(self._operators):
            pairs, context = seen[op.window]
            mine = rows[op.logit_rows]
            self._flops[index] += op.flops_per_row * mine + op.flops_per_pair * pairs
            self._bytes[index] += op.bytes_per_row * mine + op.bytes_per_context_token * context
            self._bytes[index] += op.weight_bytes if mine else 0

    def operators(self) -> list[OperatorProfile]:
        """In the order in which a step runs them."""
        return [
            OperatorProfile(op.kind.decode(), op.name.decode(), int(time) * 1e-9, flops, nbytes)
            for op, time, flops, nbytes in zip(self._operators, self.nanoseconds, self._flops, self._bytes, strict=True)
        ]


def sum_by_kind(operators: Iterable[OperatorProfile]) -> list[OperatorProfile]:
    """All layers of an operator together, greatest time first: one entry per kind and per name without its layer."""
    sums: dict[tuple[str, str], OperatorProfile] = {}
    for op in operators:
        key = op.kind, ".".join(part for part in op.name.split(".") if not part.isdigit() and part != "layers")
        old = sums.get(key, OperatorProfile(*key, 0.0, 0, 0))
        sums[key] = OperatorProfile(*key, old.seconds + op.seconds, old.flops + op.flops, old.bytes + op.bytes)
    return sorted(sums.values(), key=lambda op: -op.seconds)


def _seen(sequences: Sequence[ScheduledSequence], window: int) -> tuple[int, int]:
    """(pairs of a row and a token that it sees, cached tokens that some row sees), this step's own included."""
    pairs = context = 0
    for sequence in sequences:
        rows = len(sequence.token_ids)
        end = sequence.start + rows
        pairs += rows * sequence.start + rows * (rows + 1) // 2
        context += end
        if window:
            hidden = max(0, end - window)  # tokens that the last row does not see; the row before it misses one less
            missed = min(hidden, rows)
            pairs -= missed * hidden - missed * (missed - 1) // 2
            context -= max(0, sequence.start + 1 - window)
    return pairs, context

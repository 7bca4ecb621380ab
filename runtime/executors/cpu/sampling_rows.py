"""The sampling records of a step: `inflight_sampling`, one for each logit row."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from operator import attrgetter

from inflight.engine_format.cpu_abi import MAX_TOP_LOGPROBS, SAMPLING_FORMAT, SAMPLING_POSITION
from inflight.runtime.executors.cpu.arrays import Cells
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence
from inflight.sampling_parameters import RECORD_PARAMETERS

_ROW = struct.Struct(SAMPLING_FORMAT)
_WORDS = _ROW.size // 8  # of 64 bits; the position is one of them
_NO_LISTS = (0, 0, 0, 0, 0, 0, 0)
_FREE_CHOICE = -1  # inflight_sampling.target of a row that chooses its token
_GREEDY = RowSampling()
_BAN = float("-inf")
_parameters = attrgetter(*(row.name for row in RECORD_PARAMETERS))


class SamplingRows:
    """Rows are written one by one; `positions` are those of all rows, for writing them alone."""

    def __init__(self, count: int) -> None:
        words = Cells("Q", count * _WORDS)
        self.address = words.address
        self.positions = words.view[SAMPLING_POSITION // 8 :: _WORDS] if count else words.view
        self._bytes = words.view.cast("B")
        self._lists: dict[int, list[array[int] | array[float]]] = {}  # what the pointers of a row refer to

    def score(self, row: int, position: int, target: int, num_logprobs: int) -> None:
        """Make the row score the token `target`."""
        self._write(row, _GREEDY, position, _NO_LISTS, target, num_logprobs)

    def choose(self, row: int, sequence: ScheduledSequence) -> None:
        """Make the row choose the next token of `sequence`."""
        sampling = sequence.sampling or _GREEDY
        lists = self._point(row, sequence, sampling)
        position = sequence.start + len(sequence.token_ids)
        self._write(row, sampling, position, lists, _FREE_CHOICE, sampling.num_logprobs)

    def _point(self, row: int, sequence: ScheduledSequence, sampling: RowSampling) -> tuple[int, ...]:
        """The pointers to history, bias ids, bias values and the mask; then lengths of history, prompt and bias."""
        if not (sampling.needs_history or sampling.bias or sequence.banned or sequence.allowed):
            self._lists.pop(row, None)
            return _NO_LISTS
        kept: list[array[int] | array[float]] = []
        self._lists[row] = kept
        history: Sequence[int] = sequence.history if sampling.needs_history else ()
        ids = [token_id for token_id, _ in sampling.bias] + list(sequence.banned)
        values = [value for _, value in sampling.bias] + [_BAN] * len(sequence.banned)
        # Copies: the scheduler goes on appending to a history. A token that the step before chooses is written there.
        if history and sequence.follows >= 0:
            history = [*history, 0]
        pointers = [_keep(kept, array("i", history)), _keep(kept, array("i", ids)), _keep(kept, array("f", values))]
        pointers.append(_keep(kept, array("I", sequence.allowed or b"")))
        return (*pointers, len(history), sequence.prompt_length, len(ids))

    def _write(
        self, row: int, sampling: RowSampling, position: int, lists: tuple[int, ...], target: int, num_logprobs: int
    ) -> None:
        _ROW.pack_into(
            self._bytes,
            row * _ROW.size,
            sampling.seed,
            position,
            *lists,
            target,
            min(num_logprobs, MAX_TOP_LOGPROBS),
            *_parameters(sampling),
        )


def _keep(kept: list[array[int] | array[float]], values: array[int] | array[float]) -> int:
    """The address of `values`, which live as long as `kept`; 0 when there are none."""
    kept.append(values)
    return values.buffer_info()[0] if values else 0

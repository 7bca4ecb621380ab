"""The responses of a batch's rows as one response, for models that answer once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from inflight.errors import InflightError
from inflight.triton_backend.wire.request_tensors import Array

# What stands where a row is shorter than the longest, or has no such output, by the kind of its dtype.
_FILLERS: Mapping[str, Any] = {"i": -1, "f": 0.0, "b": False, "O": b""}


class ResponseChannel(Protocol):
    """Where the responses of one request go. Every method may block; `final` ends the stream."""

    def send(self, tensors: dict[str, Array], final: bool) -> None: ...

    def send_error(self, error: InflightError) -> None:
        """Report the failure and end the stream."""
        ...

    def is_cancelled(self) -> bool: ...


class JoinedRows:
    """A channel for a request of several rows, each of which has one response with its batch_index: they leave
    together, stacked."""

    def __init__(self, channel: ResponseChannel) -> None:
        self._channel = channel
        self._rows: dict[int, dict[str, Array]] = {}

    def send(self, tensors: dict[str, Array], final: bool) -> None:
        self._rows[int(tensors["batch_index"].reshape(-1)[0])] = tensors
        if final:
            self._channel.send(stack_rows([self._rows[index] for index in sorted(self._rows)]), final=True)

    def send_error(self, error: InflightError) -> None:
        self._channel.send_error(error)

    def is_cancelled(self) -> bool:
        return self._channel.is_cancelled()


def stack_rows(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Outputs [1, ...] of each row as [rows, ...]. What a row does not have is -1, 0, false or an empty string."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _stack([row.get(name) for row in rows]) for name in names}


def split_rows(tensors: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The outputs of each row of a response of `tensorrt_llm`, as they were before they were stacked."""
    rows = tensors["output_ids"].shape[0]
    for row in range(rows):
        outputs = {name: array[row : row + 1] for name, array in tensors.items()}
        if rows > 1:
            length = int(outputs["sequence_length"].max())
            for name in ("output_ids", "output_log_probs"):
                if name in outputs:
                    outputs[name] = outputs[name][..., :length]
            outputs = {name: array for name, array in outputs.items() if not _is_filler(array)}
        yield outputs


def _is_filler(array: Array) -> bool:
    return array.dtype == object and not any(array.reshape(-1))


def _stack(arrays: Sequence[Array | None]) -> Array:
    given = [array for array in arrays if array is not None]
    shape = np.max([array.shape[1:] for array in given], axis=0, initial=0).astype(int)
    stacked = np.full((len(arrays), *shape), _FILLERS[given[0].dtype.kind], dtype=given[0].dtype)
    for row, array in enumerate(arrays):
        if array is not None:
            stacked[(row, *(slice(size) for size in array.shape[1:]))] = array[0]
    return stacked

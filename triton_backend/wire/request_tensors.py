"""Reading the tensors of a Triton request, one row of its batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.errors import RequestError

Array = npt.NDArray[Any]


class RowTensors:
    """Row `row` of a request's tensors.

    A scalar input arrives as [batch] (config: dims [1], reshape []) or as [batch, 1]; anything else as [batch, ...].
    Absent tensors and empty ones read as None.
    """

    def __init__(self, tensors: Mapping[str, Array], row: int) -> None:
        self._tensors = tensors
        self._row = row

    def array(self, name: str) -> Array | None:
        """The row without its batch dimension."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.size == 0:
            return None
        if tensor.ndim == 0 or self._row >= tensor.shape[0]:
            raise RequestError(f"{name} has shape {list(tensor.shape)}, which has no row {self._row}.")
        return np.asarray(tensor[self._row])

    def scalar(self, name: str) -> Any:
        """The one value of the row as a Python value; strings as str."""
        row = self.array(name)
        if row is None:
            return None
        if row.size != 1:
            raise RequestError(f"{name} takes one value per request; it has {row.size}.")
        value = row.reshape(-1)[0]
        return _text(name, value) if isinstance(value, bytes) else value.item() if hasattr(value, "item") else value

    def flag(self, name: str) -> bool:
        """A BOOL that is false when absent."""
        return bool(self.scalar(name))

    def integer(self, name: str) -> int | None:
        value = self.scalar(name)
        return None if value is None else int(value)

    def number(self, name: str) -> float | None:
        value = self.scalar(name)
        return None if value is None else float(value)

    def integers(self, name: str) -> tuple[int, ...]:
        """A vector of ids; empty when absent."""
        row = self.array(name)
        return () if row is None else tuple(int(value) for value in row.reshape(-1))

    def numbers(self, name: str) -> tuple[float, ...]:
        row = self.array(name)
        return () if row is None else tuple(float(value) for value in row.reshape(-1))

    def strings(self, name: str, *, keep_empty: bool = False) -> tuple[str, ...]:
        """A vector of strings without the empty ones, which clients send for "none"; with them where their places
        count."""
        row = self.array(name)
        values = () if row is None else tuple(_text(name, value) for value in row.reshape(-1))
        return tuple(value for value in values if value or keep_empty)

    def one_of(self, *names: str) -> Any:
        """The one value of an input with several names, one per dialect. Raises RequestError when they differ."""
        values = {value for name in names if (value := self.scalar(name)) is not None}
        if len(values) > 1:
            raise RequestError(f"{' and '.join(names)} are two names of one setting and have different values.")
        return values.pop() if values else None


def batch_size(tensors: Mapping[str, Array], required: str) -> int:
    """The batch dimension of `required`. Raises RequestError when it is absent."""
    tensor = tensors.get(required)
    if tensor is None or tensor.ndim == 0:
        raise RequestError(f"{required} is missing.")
    return int(tensor.shape[0])


def _text(name: str, value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not valid UTF-8: {error}") from error

"""Rows for distances of disentangled attention (He et al., 2021): constants, of one table and the matrices of each
layer, which a checkpoint holds in place of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.config import CheckpointConfig
from inflight.convert.families.names import PositionRows
from inflight.convert.source.tensor import Array, SourceTensor
from inflight.errors import ModelError

Doubles = npt.NDArray[np.float64]


def with_position_rows(
    found: Mapping[str, SourceTensor], sources: PositionRows, config: CheckpointConfig, *, check: bool
) -> dict[str, SourceTensor]:
    """The tensors with a computed one for each layer and matrix of the stack, in place of what nothing else reads.

    With `check`, raises ModelError listing what these need and the source has not, or has in another shape.
    """
    span = config.inflight.relative_span if config.inflight is not None else None
    assert span is not None, "the family's facts have it"
    layers, heads, hidden = range(config.num_hidden_layers), config.num_attention_heads, config.hidden_size
    wanted: dict[str, tuple[int, ...]] = {f"{sources.table}.weight": (2 * span, hidden)}
    if sources.norm is not None:
        wanted |= {f"{sources.norm}.{kind}": (hidden,) for kind in ("weight", "bias")}
    terms = [term for term in sources.terms if term is not None]
    modules = [(term not in sources.unbiased, term.format(layer=layer)) for term in terms for layer in layers]
    for has_bias, module in modules:
        wanted[f"{module}.weight"] = (hidden, hidden)
        if has_bias:
            wanted[f"{module}.bias"] = (hidden,)
    if check:
        _check(found, wanted)
    table = _Table(found, sources, config.norm_epsilon)
    read_elsewhere = {f"{module}.{kind}" for _, module in modules for kind in _KINDS} if sources.shared else ()
    result = {name: tensor for name, tensor in found.items() if name not in wanted or name in read_elsewhere}
    for layer in layers:
        for place, (term, head) in enumerate((term, head) for term in sources.terms for head in range(heads)):
            name = f"{sources.rows.format(layer=layer, expert=place)}.weight"
            of_layer = None if term is None else term.format(layer=layer)
            result[name] = _HeadRows(name, table, of_layer, head, (2 * span, config.head_size))
    return result


_KINDS = ("weight", "bias")


def _check(found: Mapping[str, SourceTensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    lines = [*_problems(found, wanted)]
    if lines:
        what = "The rows for distances of disentangled attention cannot be computed:\n"
        way = "Download the model again, or mend its config."
        raise ModelError(what + "\n".join(f"  {line}" for line in lines), way)


def _problems(found: Mapping[str, SourceTensor], wanted: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name, shape in wanted.items():
        if name not in found:
            yield f"missing tensor: {name} {shape}"
        elif found[name].shape != shape:
            yield f"misshapen tensor: {name} is {found[name].shape}, the config asks for {shape}"


class _Table:
    """The table of the whole model, normed, and the matrices that it meets."""

    def __init__(self, tensors: Mapping[str, SourceTensor], sources: PositionRows, epsilon: float) -> None:
        self._tensors = tensors
        self._sources = sources
        self._epsilon = epsilon

    @cached_property
    def rows(self) -> Doubles:
        """float64 [2 span, hidden]"""
        rows = self.doubles(f"{self._sources.table}.weight")
        if self._sources.norm is None:
            return rows
        weight, bias = (self.doubles(f"{self._sources.norm}.{kind}") for kind in _KINDS)
        rows = rows - rows.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.mean(rows * rows, axis=-1, keepdims=True) + self._epsilon)
        return np.asarray(rows / deviation * weight + bias)

    def holds(self, name: str) -> bool:
        return name in self._tensors

    def doubles(self, name: str, start: int = 0, stop: int | None = None) -> Doubles:
        tensor = self._tensors[name]
        return tensor.rows(start, tensor.shape[0] if stop is None else stop).astype(np.float64)


class _HeadRows(SourceTensor):
    """What one head of one layer makes of the table, float32 [2 span, head size]; zeros without a `module`."""

    dtype = "float32"
    computed = True

    def __init__(self, name: str, table: _Table, module: str | None, head: int, shape: tuple[int, int]) -> None:
        self.name, self.shape = name, shape
        self._table = table
        self._module = module
        self._head = head

    @property
    def nbytes(self) -> int:
        """The source stores nothing for it alone."""
        return 0

    def rows(self, start: int, stop: int) -> Array:
        if self._module is None:
            return np.zeros((stop - start, self.shape[1]), np.float32)
        own: dict[str, Any] = {"start": self._head * self.shape[1], "stop": (self._head + 1) * self.shape[1]}
        rows = self._table.rows[start:stop] @ self._table.doubles(f"{self._module}.weight", **own).T
        if self._table.holds(bias := f"{self._module}.bias"):
            rows = rows + self._table.doubles(bias, **own)
        return np.asarray(rows, np.float32)

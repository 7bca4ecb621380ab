"""Tensor tables by layer: the contents of a model or checkpoint, from its headers alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from inflight.convert.quantization.schemes import SCALE_SUFFIXES

_LAYER = re.compile(r"(.*\blayers\.\d+)\.(.+)")


class TensorFacts(Protocol):
    """What is known of a tensor without its numbers."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """The tensors of one layer, or one tensor outside the layers. `parameters` counts elements, scales aside."""

    name: str
    tensors: tuple[TensorFacts, ...]

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors if not tensor.name.endswith(SCALE_SUFFIXES))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(sorted({tensor.dtype for tensor in self.tensors}))


def group_by_layer(tensors: Iterable[TensorFacts]) -> list[TensorGroup]:
    """Layers in the order of their numbers; other tensors before or after them, as the computation uses them."""
    groups: dict[str, list[TensorFacts]] = {}
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        groups.setdefault(match[1] if match else tensor.name, []).append(tensor)
    found = [TensorGroup(name, tuple(sorted(members, key=_name))) for name, members in groups.items()]
    return sorted(found, key=_position)


def _name(tensor: TensorFacts) -> str:
    return tensor.name


def _position(group: TensorGroup) -> tuple[int, int, str]:
    number = re.search(r"layers\.(\d+)$", group.name)
    if number:
        return 1, int(number[1]), group.name
    return (0 if "embed" in group.name else 2), int("head" in group.name), group.name

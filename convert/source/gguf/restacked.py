"""Experts that are matrices of their own, as the stacks of all experts that transformers has."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from inflight.convert.families.mixtures import Mixture
from inflight.convert.source.tensor import Array, Seen, SourceTensor

_IN_LAYER = re.compile(r"(model\.layers\.\d+\.).*")


def restacked(mixture: Mixture | None, tensors: Mapping[str, SourceTensor]) -> Mapping[str, SourceTensor]:
    """`tensors` with the first of the names that the family has for a stack in place of its parts."""
    if mixture is None:
        return tensors
    found = dict(tensors)
    firsts = {parts: stack for stack, parts in reversed([*mixture.stacks.items()])}
    layers = dict.fromkeys(match[1] for name in tensors if (match := _IN_LAYER.fullmatch(name)))
    for prefix in layers:
        for parts, stack in firsts.items():
            experts = _taken(found, prefix, parts)
            if experts:
                stacked = "{expert}" in parts[0]
                found[prefix + stack] = Restacked(prefix + stack, experts, mixture.alternates, stacked)
    return found


def _taken(found: dict[str, SourceTensor], prefix: str, parts: tuple[str, ...]) -> list[list[SourceTensor]]:
    """The parts of each expert, which are no longer in `found` then."""
    experts: list[list[SourceTensor]] = []
    while True:
        names = [prefix + part.format(expert=len(experts)) for part in parts]
        if not all(name in found for name in names):
            return experts
        experts.append([found.pop(name) for name in names])


class Restacked(Seen):
    """The parts of each expert, [experts][parts], one behind the other, [experts, out, in] (or biases, [experts, out]);
    if `alternates` [experts, in, out], whose outputs are those of the parts in turn. What is not `stacked` has no
    experts: its parts alone.
    """

    def __init__(self, name: str, experts: list[list[SourceTensor]], alternates: bool, stacked: bool) -> None:
        super().__init__(name, experts[0][0])
        self._experts, self._alternates, self._stacked = experts, alternates, stacked
        parts = experts[0]
        outputs, inputs = sum(part.shape[0] for part in parts), parts[0].shape[1:]
        one = (*inputs, outputs) if alternates else (outputs, *inputs)
        self.shape = (len(experts), *one) if stacked else one

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for parts in self._experts for part in parts)

    def rows(self, start: int, stop: int) -> Array:
        if not self._stacked:
            return self._expert(self._experts[0])[start:stop]
        found = [self._expert(parts) for parts in self._experts[start:stop]]
        return np.stack(found) if found else self._expert(self._experts[0])[None][:0]

    def _expert(self, parts: list[SourceTensor]) -> Array:
        matrices = [part.rows(0, part.shape[0]) for part in parts]
        if not self._alternates:
            return np.concatenate(matrices)
        together = np.stack(matrices, axis=1).reshape(-1, *matrices[0].shape[1:])
        return together.T

    def levels(self, start: int, stop: int) -> None:
        return None

    @property
    def form(self) -> None:
        return None

"""The tensors of a source as the modules of its family's decoder have them: under their usual names, matrices (out,
in), and what one matrix holds of several modules each on its own, in the order in which rotation takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from inflight.convert.families.disentangled import with_position_rows
from inflight.convert.families.family import Family
from inflight.convert.families.fused import Order, Rows
from inflight.convert.families.table import find_family
from inflight.convert.source.hf_config import read_model_config
from inflight.convert.source.tensor import Array, GroupLevels, LevelForm, Seen, SourceTensor
from inflight.dtypes import numpy_dtype


def arranged(config: Mapping[str, Any], tensors: Mapping[str, SourceTensor]) -> Mapping[str, SourceTensor]:
    """The tensors of a model with this config.json. Those that do not fit it stay as they are: whoever accounts for
    them says so."""
    family = find_family(config)
    if family is None:
        return tensors
    found = {(name := _renamed(family, stored)): _under(name, tensor) for stored, tensor in tensors.items()}
    moved = family.interleaved_rope or family.backward_rope or family.latent
    if not (family.fused or family.transposed or family.unbiased or moved or family.disentangled):
        return found
    reading = read_model_config(config, family)
    if family.disentangled is not None and reading.shapes_known:
        found = with_position_rows(found, family.disentangled(config), reading.config, check=not reading.problems)
    if reading.shapes_known:
        layers = range(reading.config.num_hidden_layers)
        for module in (template.format(layer=layer) for template in family.transposed for layer in layers):
            weight = found.get(name := f"{module}.weight")
            if weight is not None and len(weight.shape) == 2:
                found[name] = Transposed(name, weight)
        _pick_rows(found, family.arrangement(reading.config), layers)
        for module in (template.format(layer=layer) for template in family.unbiased for layer in layers):
            weight = found.get(f"{module}.weight")
            if weight is not None:
                found[f"{module}.bias"] = Zeros(f"{module}.bias", weight)
    return found


def _renamed(family: Family, name: str) -> str:
    """A name that begins with the first of a pair then begins with the second. One with a dot in front may stand
    anywhere."""
    for old, new in family.renamed:
        if old.startswith(".") and old in name:
            name = name.replace(old, new)
        elif name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _under(name: str, tensor: SourceTensor) -> SourceTensor:
    if not tensor.shape:
        return Single(name, tensor)
    return tensor if tensor.name == name else Seen(name, tensor)


def _pick_rows(found: dict[str, SourceTensor], arrangement: Mapping[str, Rows], layers: range) -> None:
    """Put the parts of each fused or reordered module in its place, if its size is that of all of them."""
    parts: dict[str, dict[str, Rows]] = {}
    for name, rows in arrangement.items():
        parts.setdefault(rows.module, {})[name] = rows
    for module, picked in parts.items():
        size = 1 + max(int(rows.order.max(initial=-1)) for rows in picked.values())
        for layer in layers if "{layer}" in module else range(1):
            for kind in ("weight", "bias"):
                inner = found.get(stored := f"{module.format(layer=layer)}.{kind}")
                if inner is None or inner.shape[0] != size:
                    continue
                del found[stored]
                for name, rows in picked.items():
                    part = f"{name.format(layer=layer)}.{kind}"
                    found[part] = PickedRows(part, inner, rows.order)
                    if rows.transposed:
                        found[part] = Transposed(part, found[part])


class Single(Seen):
    """A number that the file holds without an axis, as a vector of one."""

    def __init__(self, name: str, inner: SourceTensor) -> None:
        super().__init__(name, inner)
        self.shape = (1,)

    def rows(self, start: int, stop: int) -> Array:
        return self._inner.rows(0, 1).reshape(1)[start:stop]


class Zeros(SourceTensor):
    """The bias that a matrix has not, beside those of others in the same product."""

    computed = True

    def __init__(self, name: str, weight: SourceTensor) -> None:
        self.name, self.shape, self.dtype = name, weight.shape[:1], weight.dtype

    @property
    def nbytes(self) -> int:
        """The source stores nothing for it."""
        return 0

    def rows(self, start: int, stop: int) -> Array:
        return np.zeros(stop - start, numpy_dtype(self.dtype))


class Transposed(Seen):
    """A matrix that the file holds (in, out). Its levels, if it has some, are not kept: their groups lie across."""

    def __init__(self, name: str, inner: SourceTensor) -> None:
        super().__init__(name, inner)
        self.shape = (inner.shape[1], inner.shape[0])

    def rows(self, start: int, stop: int) -> Array:
        return np.ascontiguousarray(self._inner.rows(0, self.shape[1])[:, start:stop].T)

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        return None

    @property
    def form(self) -> LevelForm | None:
        return None


class PickedRows(Seen):
    """Rows of another tensor by their numbers."""

    def __init__(self, name: str, inner: SourceTensor, order: Order) -> None:
        super().__init__(name, inner)
        self._order = order
        self.shape = (len(order), *inner.shape[1:])

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes * len(self._order) // max(1, self._inner.shape[0])

    def rows(self, start: int, stop: int) -> Array:
        wanted = self._order[start:stop]
        if not len(wanted):
            return self._inner.rows(0, 0)
        first = int(wanted.min())
        rows: Array = self._inner.rows(first, int(wanted.max()) + 1)[wanted - first]
        return rows

    def levels(self, start: int, stop: int) -> GroupLevels | None:
        wanted = self._order[start:stop]
        first = int(wanted.min())
        found = self._inner.levels(first, int(wanted.max()) + 1)
        if found is None:
            return None
        rows = wanted - first
        zeros, offsets = (None if each is None else each[rows] for each in (found.zeros, found.offsets))
        return replace(found, levels=found.levels[rows], scales=found.scales[rows], zeros=zeros, offsets=offsets)

"""Matches the tensors of the checkpoint with those of the source, so that none is missing or left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from inflight.convert.checkpoint.layout import TensorSpec
from inflight.convert.families.family import Family
from inflight.convert.source.tensor import SourceTensor
from inflight.dtypes import FLOAT_DTYPES

_MOST_LINES_PER_KIND = 40
_LABELS = ", a row for each label of id2label or num_labels"


class TensorAccount:
    """The source's tensors against the specs of the whole model. `tied`: the projection is the embedding."""

    def __init__(self, family: Family, tensors: Mapping[str, SourceTensor], tied: bool) -> None:
        self._family = family
        self._tensors = tensors
        self._tied = tied

    def sources(self, spec: TensorSpec) -> tuple[str, ...]:
        """Names of the source tensors that make the parts of `spec`, in order."""
        tied = self._tied and spec.module == "lm_head" and spec.kind == "weight"
        names = self._family.names["vocab_embedding" if tied else spec.module]
        experts = range(spec.experts or 1)
        return tuple(
            f"{name.format(layer=spec.layer, expert=expert)}.{spec.kind}" for expert in experts for name in names
        )

    def tensors_of(self, spec: TensorSpec) -> list[SourceTensor]:
        """The source tensors that make the parts of `spec`; none where one of them is missing or misshapen."""
        found = [self._tensors.get(name) for name in self.sources(spec)]
        shapes = [(rows, spec.columns) for rows in spec.parts]
        fits = [each for each, shape in zip(found, shapes, strict=True) if each is not None and each.shape == shape]
        return fits if len(fits) == len(found) else []

    def offset(self, spec: TensorSpec) -> float:
        """What the checkpoint's values have beyond the source's: weights of norms may hold one that the family adds."""
        return self._family.norm_offset if spec.wide and spec.kind == "weight" and spec.columns is None else 0.0

    def dtypes(self, specs: Iterable[TensorSpec]) -> set[str]:
        """The types of the tensors that `specs` use."""
        names = {name for spec in specs for name in self.sources(spec)}
        found = (self._tensors[name] for name in names if name in self._tensors)
        return {tensor.dtype for tensor in found if not tensor.computed}

    def problems(self, specs: Iterable[TensorSpec]) -> list[str]:
        """Every missing, misshapen, unreadable and unknown source tensor, one line each."""
        missing: list[str] = []
        wrong: list[str] = []
        used: dict[str, None] = {}
        for spec in specs:
            for name, rows in zip(self.sources(spec), spec.parts, strict=True):
                if name in used:
                    continue
                used[name] = None
                entry = self._tensors.get(name)
                shape = (rows,) if spec.columns is None else (rows, spec.columns)
                if entry is None:
                    missing.append(f"missing tensor: {name} {shape}")
                elif entry.shape != shape:
                    why = _LABELS if self._counts_labels(spec) and entry.shape[:1] != shape[:1] else ""
                    wrong.append(f"misshapen tensor: {name} is {entry.shape}, the config asks for {shape}{why}")
                elif entry.dtype not in FLOAT_DTYPES:
                    wrong.append(f"tensor of an unsupported type: {name} is {entry.dtype}")
        extra = [f"unknown tensor: {name}" for name in self._tensors if name not in used and not self._ignored(name)]
        return [*_capped(missing), *_capped(wrong), *_capped(extra)]

    def _counts_labels(self, spec: TensorSpec) -> bool:
        """Whether `spec` has a row for each label: of a classifier, or where it reads a mean of the last Dense."""
        names = self._family.names
        return "classifier.out" in names and names[spec.module] == names["classifier.out"]

    def _ignored(self, name: str) -> bool:
        if self._tied and name == self._family.tied:
            return True
        return any(fnmatchcase(name, pattern) for pattern in (*self._family.ignored, *self._family.left_out))


def _capped(lines: list[str]) -> list[str]:
    if len(lines) <= _MOST_LINES_PER_KIND:
        return lines
    kind = lines[0].split(":")[0]
    return [*lines[:_MOST_LINES_PER_KIND], f"... and {len(lines) - _MOST_LINES_PER_KIND} more of the kind: {kind}"]

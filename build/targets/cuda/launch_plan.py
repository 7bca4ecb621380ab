"""Planned launches: a kernel family, its variants, and the operands; and the list of all kernels of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.engine_format.cuda_facts import Choice, Launch, Operand, Rows, When


@dataclass(frozen=True)
class PlannedLaunch:
    """`choices`: (most rows, variant), the last of any number (None)."""

    spec: KernelSpec
    choices: tuple[tuple[int | None, Variant], ...]
    operands: Mapping[str, Operand]
    rows: Rows

    @classmethod
    def of(cls, spec: KernelSpec, variant: Variant, operands: Mapping[str, Operand], rows: Rows) -> PlannedLaunch:
        """With one variant for any number of rows."""
        return cls(spec, ((None, variant),), operands, rows)


class KernelList:
    """Every kernel of an engine once, in the order of its first launch."""

    def __init__(self) -> None:
        self.kernels: list[tuple[KernelSpec, Variant]] = []
        self._places: dict[str, int] = {}

    def launch(self, name: str, planned: PlannedLaunch, *, when: When = "always") -> Launch:
        """The record of a launch, whose kernels are added where they are new."""
        choices = [Choice(kernel=self._place(planned.spec, each), most_rows=most) for most, each in planned.choices]
        return Launch(name=name, rows=planned.rows, choices=tuple(choices), operands=dict(planned.operands), when=when)

    def _place(self, spec: KernelSpec, variant: Variant) -> int:
        key = f"{spec.function} {sorted(variant.types.items())} {sorted(variant.constants.items())}"
        if key not in self._places:
            self._places[key] = len(self.kernels)
            self.kernels.append((spec, variant))
        return self._places[key]

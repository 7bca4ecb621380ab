"""A budget of accuracy: which matrices of a calibrated int4 model get int8, so that it loses no more than is allowed.

Matrices are ordered by what their rounding costs of their own outputs for each second per token that int4 saves; as few
of the first as the budget needs get int8, which a bisection finds by running the rounded model on a text of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from inflight.accuracy.record import Figure
from inflight.accuracy.requirement import BOUNDS, Requirement
from inflight.convert.calibration.held_out import HeldOutText
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.calibration.statistics import LayerWeights
from inflight.convert.checkpoint.expert_stacks import Stack
from inflight.convert.checkpoint.reference.decoder import TensorReader
from inflight.convert.plan import ConversionPlan
from inflight.convert.quantization.cost import seconds_per_token
from inflight.convert.quantization.modules import first_of_pair
from inflight.convert.quantization.round_to_nearest import Array, dequantize, quantize_rows
from inflight.convert.quantization.rows import RowRounding
from inflight.errors import InflightError

FALLBACK = "int8_wo"


class BudgetSearch:
    """Runs a planned model on a text, with some of its int4 matrices as they are and the others of int8 instead."""

    def __init__(
        self,
        plan: ConversionPlan,
        plain: TensorReader,
        lost: Mapping[str, float],
        text: HeldOutText,
    ) -> None:
        """`plan` has one rank, `plain` the numbers that int8 is rounded from. `lost`, by module: the share of its
        outputs' square that its rounding costs.
        """
        self._spec, self._planned, self._plain = plan.spec, PlannedTensors(plan), plain
        self._lost, self._text = lost, text

    @property
    def rounds(self) -> int:
        """The most runs that a choice takes."""
        return 2 + max(1, len(self._units())).bit_length()

    def choose(self, requirements: Sequence[Requirement], advance: Callable[[], None]) -> tuple[str, ...]:
        """The modules that get int8: those of the fewest predicted seconds per token that meet all requirements.
        `advance` is called after each run. Raises InflightError that says how near int8 comes, where even that loses
        more.
        """
        order = self._units()
        least = self._try(order, advance)
        if not _met(requirements, least):
            found = ", ".join(f"{each.figure} is {least[each.figure].value:.5g}" for each in requirements)
            raise InflightError(
                f"The budget {', '.join(map(str, requirements))} cannot be kept: with int8 in every matrix, {found}.",
                "Allow more, or leave --quantize and --budget out.",
            )
        few, enough = -1, len(order)
        while enough - few > 1:
            middle = (few + enough) // 2
            figures = self._try(order[:middle], advance)
            if _met(requirements, figures):
                enough = middle
            else:
                few = middle
        return tuple(module for unit in order[:enough] for module in unit)

    def _units(self) -> list[tuple[str, ...]]:
        """Modules that need one scheme, those first that gain most by int8 for the time that it costs."""
        units: dict[str, list[str]] = {}
        for module in self._lost:
            quantization = self._planned.quantization(module)
            if quantization is not None and quantization.bits == 4:
                units.setdefault(first_of_pair(module), []).append(module)
        return sorted(map(tuple, units.values()), key=lambda unit: -self._gain(unit))

    def _gain(self, unit: Sequence[str]) -> float:
        lost = sum(self._lost[module] for module in unit) / len(unit)
        return lost / sum(self._seconds_of_int8(module) for module in unit)

    def _seconds_of_int8(self, module: str) -> float:
        """Predicted seconds a token that int8 takes beyond int4, for one user."""
        quantization, elements = self._planned.quantization(module), self._planned.size(module)
        assert quantization is not None, f"{module} is plain"
        # An engine stores the scales of groups in two bytes.
        bytes_of_int4 = elements * (0.5 + 2 / quantization.group_size)
        return seconds_per_token(elements, elements) - seconds_per_token(bytes_of_int4, elements)

    def _try(self, wide: Sequence[Sequence[str]], advance: Callable[[], None]) -> dict[str, Figure]:
        model = _Widened(self._planned, self._plain, {module for unit in wide for module in unit})
        figures = self._text.figures(self._spec, model.below)
        advance()
        return figures


class _Widened:
    """The planned tensors, with int8 in the modules `wide`, each row of which has a scale."""

    def __init__(self, planned: PlannedTensors, plain: TensorReader, wide: Set[str]) -> None:
        self._planned, self._plain, self._wide = planned, plain, wide

    def array(self, name: str) -> Array:
        return self._planned.array(name)

    def matrix(self, module: str) -> Array:
        if module not in self._wide:
            return self._planned.matrix(module)
        return dequantize(*quantize_rows(self._plain.matrix(module).astype(np.float32)), 0)

    def stack(self, module: str) -> Stack:
        return self._planned.stack(module)

    def input_factors(self, module: str) -> Array | None:
        return None if module in self._wide else self._planned.input_factors(module)

    def below(self, prefix: str) -> LayerWeights:
        wide = {name.removeprefix(prefix): RowRounding("int16") for name in self._wide if name.startswith(prefix)}
        return LayerWeights(self, prefix, roundings={**self._planned.roundings(prefix), **wide})


def _met(requirements: Sequence[Requirement], figures: Mapping[str, Figure]) -> bool:
    return all(each.holds(figures[each.figure].value) for each in requirements)


def check_budget(requirements: Sequence[Requirement]) -> None:
    """Raises InflightError for a figure that a conversion does not measure."""
    for each in requirements:
        if each.figure not in ("kl", "ppl_ratio", "top1"):
            known = ", ".join(name for name in BOUNDS if name in ("kl", "ppl_ratio", "top1"))
            raise InflightError(f"--budget {each}: a conversion measures {known}.")

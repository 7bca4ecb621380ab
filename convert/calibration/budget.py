"""A budget of accuracy: which matrices of a calibrated int4 model get int8, so that it loses no more than is allowed.

Matrices are ordered by what their rounding costs of their own outputs for each byte that int4 saves; as few of the
first as the budget needs get int8, which a bisection finds by running the rounded model on a text of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inflight.accuracy.figures import TextFigures, WindowSums
from inflight.accuracy.record import Figure
from inflight.accuracy.requirement import BOUNDS, Requirement
from inflight.convert.calibration.layers import LAYER, embedded
from inflight.convert.calibration.statistics import Floats, ObservedWeights
from inflight.convert.calibration.text import Tokens
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.convert.checkpoint.reference_decoder import TensorReader, decoder_layer, final_logits
from inflight.convert.quantization.modules import first_of_pair
from inflight.convert.quantization.round_to_nearest import dequantize, quantize_rows
from inflight.errors import InflightError

HEAD = "lm_head"
FALLBACK = "int8_wo"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A matrix with int4 levels: `matrix` gives them times their scales, `lost` is the share of its outputs' square
    that their rounding costs, `size` its elements.
    """

    matrix: Callable[[], Floats]
    lost: float
    size: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The modules that get int8, and what the model then keeps on the text."""

    wide: tuple[str, ...]
    figures: Mapping[str, Figure]


class BudgetSearch:
    """Runs the model with some matrices of int4 and the others of int8. `sequences` are the text; the second half of
    each is scored, against the plain model.
    """

    def __init__(
        self,
        tensors: TensorReader,
        spec: ModelSpec,
        candidates: Mapping[str, Candidate],
        sequences: Sequence[Tokens],
        advance: Callable[[], None],
    ) -> None:
        self._tensors, self._spec, self._candidates, self._advance = tensors, spec, candidates, advance
        self._sequences = [ids for ids in sequences if len(ids) > 1]
        self._plain = list(self._logits(lambda module: None))

    def choose(self, requirements: Sequence[Requirement]) -> Choice:
        """The choice with the fewest matrices of int8 that meets all requirements. Raises InflightError that says how
        near int8 comes, where even that loses more.
        """
        order = self._units()
        best = self._try(order)
        if not _met(requirements, best):
            found = ", ".join(f"{each.figure} is {best[each.figure].value:.5g}" for each in requirements)
            raise InflightError(
                f"The budget {', '.join(map(str, requirements))} cannot be kept: with int8 in every matrix, {found}.",
                "Allow more, or leave --quantize and --budget out.",
            )
        few, enough = -1, len(order)
        while enough - few > 1:
            middle = (few + enough) // 2
            figures = self._try(order[:middle])
            if _met(requirements, figures):
                enough, best = middle, figures
            else:
                few = middle
        return Choice(tuple(module for unit in order[:enough] for module in unit), best)

    def _units(self) -> list[tuple[str, ...]]:
        """Modules that need one scheme, those first that gain most by int8."""
        units: dict[str, list[str]] = {}
        for module in self._candidates:
            units.setdefault(first_of_pair(module), []).append(module)
        return sorted(map(tuple, units.values()), key=lambda unit: -self._gain(unit))

    def _gain(self, unit: Sequence[str]) -> float:
        lost = sum(self._candidates[module].lost for module in unit) / len(unit)
        return lost / sum(self._candidates[module].size for module in unit)

    def _try(self, wide: Sequence[Sequence[str]]) -> dict[str, Figure]:
        modules = {module for unit in wide for module in unit}

        def rounded(module: str) -> Floats | None:
            if module in self._candidates and module not in modules:
                return self._candidates[module].matrix()
            return _int8(self._tensors.matrix(module).astype(np.float32))

        found = TextFigures(compared=True)
        for ids, logits, plain in zip(self._sequences, self._logits(rounded), self._plain, strict=True):
            window = WindowSums()
            window.add(ids[_first_scored(ids) :].tolist(), logits, plain)
            found.windows.append(window)
        self._advance()
        return found.figures()

    def _logits(self, matrix: Callable[[str], Floats | None]) -> Iterator[Floats]:
        """Logits float32 [scored, vocab] of each sequence; `matrix` stands in for a module's, None: the stored one."""
        streams = embedded(self._tensors, self._spec, self._sequences)
        for index, layer in enumerate(self._spec.layers):
            prefix = LAYER.format(index)
            names = [name for name in self._candidates if name.startswith(prefix)]
            replaced = {name.removeprefix(prefix): found for name in names if (found := matrix(name)) is not None}
            weights = ObservedWeights(self._tensors, prefix, replaced=replaced)
            streams = [decoder_layer(weights, layer, stream) for stream in streams]
        head = HEAD if self._spec.lm_head else "transformer.vocab_embedding"
        replaced = {head: found} if (found := matrix(head)) is not None else {}
        last = ObservedWeights(self._tensors, "", replaced=replaced)
        for ids, stream in zip(self._sequences, streams, strict=True):
            yield final_logits(last, self._spec, stream[_first_scored(ids) - 1 : -1]).astype(np.float32)


def _first_scored(ids: Tokens) -> int:
    return max(1, len(ids) // 2)


def _int8(weight: Floats) -> Floats:
    return dequantize(*quantize_rows(weight), 0)


def _met(requirements: Sequence[Requirement], figures: Mapping[str, Figure]) -> bool:
    return all(each.holds(figures[each.figure].value) for each in requirements)


def check_budget(requirements: Sequence[Requirement]) -> None:
    """Raises InflightError for a figure that a conversion does not measure."""
    for each in requirements:
        if each.figure not in ("kl", "ppl_ratio", "top1"):
            known = ", ".join(name for name in BOUNDS if name in ("kl", "ppl_ratio", "top1"))
            raise InflightError(f"--budget {each}: a conversion measures {known}.")

"""What may be asked of an accuracy record: "kl<=0.02, top1>=0.95"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inflight.accuracy.record import AccuracyRecord, FoundRecord
from inflight.errors import InflightError

# Which side of a bound is good: figures that are better when smaller, and those that are better when larger.
BOUNDS = {"ppl": "<=", "ppl_ratio": "<=", "kl": "<=", "top1": ">=", "exact_match": ">=", "same_answers": ">="}
_FORM = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=)\s*([0-9.eE+-]+)\s*")
_EXAMPLE = 'Such as "kl<=0.02" or "kl<=0.02,top1>=0.95".'


@dataclass(frozen=True, slots=True)
class Requirement:
    """A figure by its name, and the worst value that it may have."""

    figure: str
    bound: float

    def __str__(self) -> str:
        return f"{self.figure}{BOUNDS[self.figure]}{self.bound:g}"

    def holds(self, value: float) -> bool:
        return value <= self.bound if BOUNDS[self.figure] == "<=" else value >= self.bound


def read_requirements(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """Each text is one requirement, or several with commas. Raises InflightError naming the one that is none."""
    return tuple(_read(part) for text in texts for part in text.split(",") if part.strip())


def unmet(requirements: Sequence[Requirement], record: AccuracyRecord) -> list[str]:
    """A sentence for each requirement that the record does not meet."""
    problems = []
    for requirement in requirements:
        figure = record.figures.get(requirement.figure)
        if figure is None:
            problems.append(f"{requirement}: the record has no {requirement.figure}.")
        elif not requirement.holds(figure.value):
            error = "" if figure.error is None else f" ± {figure.error:.2g}"
            problems.append(f"{requirement}: {requirement.figure} is {figure.value:.5g}{error}.")
    return problems


def check_requirements(requirements: Sequence[Requirement], found: FoundRecord, what: str) -> None:
    """Raises InflightError that names every figure of `what` that is missing or worse than required."""
    if not requirements:
        return
    asked = ", ".join(map(str, requirements))
    if found.record is None:
        why = (
            "has no accuracy record"
            if found.problem is None
            else f"has no record that counts: {found.problem.rstrip('.')}"
        )
        raise InflightError(
            f"{what} {why}; required is {asked}.",
            "Measure an engine of it: inflight eval ENGINE --against MODEL --record --checkpoint-dir CKPT",
        )
    if problems := unmet(requirements, found.record):
        raise InflightError(
            f"{what} is not as accurate as required:\n" + "\n".join(f"  {problem}" for problem in problems),
            "Choose a scheme that loses less, or require less.",
        )


def _read(text: str) -> Requirement:
    match = _FORM.fullmatch(text)
    try:
        name, sign, bound = match.groups() if match else ("", "", "")
        value = float(bound)
    except ValueError:
        raise InflightError(f"{text.strip()!r} is no requirement.", _EXAMPLE) from None
    if name not in BOUNDS:
        raise InflightError(f"{text.strip()!r}: there is no figure {name}.", f"There are {', '.join(BOUNDS)}.")
    if sign != BOUNDS[name]:
        better = "smaller" if BOUNDS[name] == "<=" else "larger"
        raise InflightError(
            f"{text.strip()!r}: {name} is better when {better}.", f"Ask for {name}{BOUNDS[name]}{bound}"
        )
    return Requirement(name, value)

"""A figure of accuracy."""

from __future__ import annotations

import math

import msgspec

# Of a figure: what is below differs from one processor to the next.
_DIGITS = 6


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value and its standard error, None where it cannot be known."""

    value: float
    error: float | None = None

    @classmethod
    def of(cls, value: float, error: float | None = None) -> Figure:
        """Rounded to the digits that are kept."""
        return cls(_rounded(value), None if error is None else _rounded(error))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else value

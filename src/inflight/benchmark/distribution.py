"""Summaries of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def percentile(samples: Sequence[float], rank: float) -> float:
    """The value below which `rank` percent of the samples lie, interpolated; NaN without samples."""
    return float(np.percentile(samples, rank)) if len(samples) else float("nan")


def mean(samples: Sequence[float]) -> float:
    return float(np.mean(samples)) if len(samples) else float("nan")


def deviation(samples: Sequence[float]) -> float:
    """The standard deviation of the samples themselves."""
    return float(np.std(samples)) if len(samples) else float("nan")


def rank_name(rank: float) -> str:
    """A percentile in the name of a field: 99 -> "99", 99.9 -> "99.9"."""
    return str(int(rank)) if rank == int(rank) else str(rank)

"""The order of the sampling kernels for a step, and the memory that they share.

Arguments of the same name are the same array in every kernel. Rows that do not use a filter pass its launches over, so
one chain serves any mixture; a step may leave out the links that none of its rows needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inflight.build.gpu_kernels.spec import Constant, Variant

CHUNK = 4096
LEVELS = 8
# Of the likeliest tokens, at most so many are reported.
MOST_REPORTED = 64
_DIGITS = 16


@dataclass(frozen=True)
class Launch:
    """One launch of the chain: a kernel, the constants of its variant, and the scalars that are not arrays."""

    function: str
    variant: Variant
    scalars: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plane:
    """An array of the chain's own. `zero`: it must be zero before the first step, and is zero after every step."""

    shape: tuple[int, ...]
    dtype: str
    zero: bool = False


def sampling_launches(
    vocab: int, *, adjusts: bool, draws: bool, top_k: bool, top_p: bool, min_p: bool, logits: str = "fp32"
) -> tuple[Launch, ...]:
    """What a step launches when some row has a bias or history, draws at all, or uses one of the filters."""
    plain, typed = _variant(vocab), Variant({"logits": logits}, {"vocab": vocab})
    launches = [Launch("sampling_scatter", plain)] if adjusts else []
    launches.append(Launch("sampling_adjust", typed))
    if draws:
        launches.append(Launch("sampling_weigh", plain))
        if top_k:
            launches += _search(vocab, by_weight=False)
        if top_k or top_p or min_p:
            launches.append(Launch("sampling_limit", Variant({}, {"used": chunks(vocab)})))
        if top_p:
            launches += _search(vocab, by_weight=True)
        if top_k or top_p or min_p:
            launches.append(Launch("sampling_keep", plain))
    return (*launches, Launch("sampling_draw", plain))


def sampling_planes(rows: int, vocab: int) -> dict[str, Plane]:
    """The arrays between logits and tokens, for up to `rows` rows; counts and bias are for adjusted rows alone."""
    parts = chunks(vocab)
    return {
        "counts": Plane((rows, vocab), "int32", zero=True),
        "bias": Plane((rows, vocab), "float32", zero=True),
        "values": Plane((rows, vocab), "float32"),
        "weights": Plane((rows, vocab), "float32"),
        "chunk_max": Plane((rows, parts), "float32"),
        "chunk_weight": Plane((rows, parts), "int64"),
        "limit": Plane((2, rows), "int64"),
        "counted": Plane((2, rows, 2, parts, _DIGITS), "int64"),
        "state": Plane((2, rows, 3), "int64"),
        "cut": Plane((rows, 2), "int64"),
    }


def report_launches(vocab: int, *, logits: str = "fp32") -> tuple[Launch, ...]:
    """Behind the others, when some row wants log probabilities."""
    variant = Variant({"logits": logits}, {"vocab": vocab})
    return tuple(Launch(name, variant) for name in ("sampling_logit_max", "sampling_rank", "sampling_report"))


def report_planes(rows: int, vocab: int) -> dict[str, Plane]:
    """The arrays between the launches of a report."""
    parts = chunks(vocab)
    return {
        "logit_max": Plane((rows, parts), "float32"),
        "logit_weight": Plane((rows, parts), "int64"),
        "before": Plane((rows, parts), "int64"),
        "leaders": Plane((rows, parts, MOST_REPORTED), "int64"),
    }


def chunks(vocab: int) -> int:
    return -(-vocab // CHUNK)


def _search(vocab: int, *, by_weight: bool) -> list[Launch]:
    variant = _variant(vocab, by_weight=by_weight)
    return [Launch("sampling_narrow", variant, {"level": level}) for level in range(LEVELS)]


def _variant(vocab: int, **constants: Constant) -> Variant:
    return Variant({}, {"vocab": vocab, **constants})

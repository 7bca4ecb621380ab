"""The order of the sampling kernels for a step, and the memory that they share.

Arguments of the same name are the same array in every kernel. Rows that do not use a filter pass its launches over, so
one chain serves any mixture; a step leaves out the links that none of its rows needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inflight.build.gpu_kernels.spec import Constant, Variant
from inflight.engine_format.cuda_facts import MOST_REPORTED, When

CHUNK = 4096
LEVELS = 8
# Of Llama 3 and Qwen2; kernels of one number of chunks serve every vocabulary that has as many.
COMPILED_CHUNKS = (32, 64)
_DIGITS = 16


@dataclass(frozen=True)
class Link:
    """One launch of the chain: a kernel, the constants of its variant, when a step needs it, and the scalars that are
    not arrays."""

    function: str
    variant: Variant
    when: When
    scalars: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plane:
    """An array of the chain's own. `zero`: it must be zero before the first step, and is zero after every step."""

    shape: tuple[int, ...]
    dtype: str
    zero: bool = False


def sampling_chain(vocab: int) -> tuple[Link, ...]:
    """All links in order, of float32 logits [rows, vocab]; a step takes those whose `when` holds for some row of it."""
    typed, counted = Variant({"logits": "fp32"}), _variant(vocab)
    both = Variant({"logits": "fp32"}, counted.constants)
    scalars = {"vocab": vocab}
    return (
        Link("sampling_forget", Variant(), "anew", scalars),
        Link("sampling_count", Variant(), "counts", scalars),
        Link("sampling_scatter", Variant(), "lists", scalars),
        Link("sampling_adjust", typed, "samples", scalars),
        Link("sampling_weigh", counted, "draws", scalars),
        *_search(vocab, "top_k", by_weight=False),
        Link("sampling_limit", counted, "filters", scalars),
        *_search(vocab, "top_p", by_weight=True),
        Link("sampling_keep", counted, "filters", scalars),
        Link("sampling_draw", counted, "samples", scalars),
        Link("sampling_logit_max", typed, "reports", scalars),
        Link("sampling_rank", both, "reports", scalars),
        Link("sampling_report", both, "reports", scalars),
    )


def sampling_planes(rows: int, vocab: int, slots: int) -> dict[str, Plane]:
    """The arrays between logits and tokens, for up to `rows` rows; bias is for rows with lists alone. What is counted
    stays from step to step, of each slot that some sequence with penalties had."""
    parts = chunks(vocab)
    return {
        "counts": Plane((slots, vocab), "int32"),
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


def _search(vocab: int, when: When, *, by_weight: bool) -> list[Link]:
    variant = _variant(vocab, by_weight=by_weight)
    return [Link("sampling_narrow", variant, when, {"level": level, "vocab": vocab}) for level in range(LEVELS)]


def _variant(vocab: int, **constants: Constant) -> Variant:
    """For every vocabulary of as many chunks, in a power of two."""
    return Variant({}, {"chunks": 1 << (chunks(vocab) - 1).bit_length(), **constants})

"""What a model does when it is tried: whether its cache continues a sequence, and how much it holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from inflight.engine_format.transformers_facts import Continues
from inflight.engine_format.transformers_model import Floats, TransformersModel, held_bytes
from inflight.errors import BuildError

# Odd sizes, one token among them, that no chunk, kernel or convolution of a model has.
_CHUNKS = (11, 1, 7, 1, 1, 9, 2)
_SINGLE = (11, *[1] * 21)
# The median distance of a row from what it should be, over the largest logit. A row of another context is about 1 off.
_MOST_ERROR = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.1}
# What models of every kind raise where they are asked for what they do not do.
_FAILURES = (
    RuntimeError,
    ValueError,
    IndexError,
    AssertionError,
    NotImplementedError,
    TypeError,
    AttributeError,
    KeyError,
)
# Positions between which the growth of a cache is seen: fewer than any window has.
_SHORT, _LONG = 2, 4


@dataclass(frozen=True)
class Trial:
    """`bytes_per_token` of the cache, and `bytes_per_sequence`, however long it is."""

    continues: Continues
    bytes_per_token: int
    bytes_per_sequence: int


def try_model(model: TransformersModel, dtype: str) -> Trial:
    """Compute a few tokens at once and in pieces. Raises BuildError where the pieces give other logits."""
    tokens = [(7919 * place + 31) % model.vocab_size for place in range(sum(_CHUNKS))]
    try:
        whole, cache = model.continued(tokens, 0, None, last_row=False)
    except _FAILURES as error:
        raise BuildError(
            f"{type(model.config).__name__}: transformers cannot compute this model with a cache: {error}",
            "What generates without one, or keeps its state in a way of its own, cannot be served.",
        ) from error
    if cache is None:
        raise BuildError(
            f"{type(model.config).__name__}: transformers has no cache for this model that could be handed on.",
            "A model of which every token needs all others computed again cannot be served.",
        )
    if not np.isfinite(whole).all():
        raise BuildError(f"The model's logits are not all finite numbers in {dtype}.", "Choose another --dtype.")
    ways: tuple[tuple[Continues, tuple[int, ...]], ...] = (("chunks", _CHUNKS), ("tokens", _SINGLE))
    continues = next((way for way, sizes in ways if _error(model, tokens, sizes, whole) <= _MOST_ERROR[dtype]), None)
    if continues is None:
        raise BuildError(
            f"{type(model.config).__name__}: the logits of a text differ when it is computed in pieces, each from the "
            "cache of those before.",
            "Encoders and models that look ahead cannot generate token by token.",
        )
    short, long = (held_bytes(model.continued(tokens[:n], 0, None, last_row=True)[1]) for n in (_SHORT, _LONG))
    per_token = max(0, long - short) // (_LONG - _SHORT)
    return Trial(continues, per_token, max(0, short - _SHORT * per_token))


def _error(model: TransformersModel, tokens: list[int], sizes: tuple[int, ...], whole: Floats) -> float:
    rows: list[Floats] = []
    cache: Any = None
    try:
        for start, end in pairwise(accumulate(sizes, initial=0)):
            logits, cache = model.continued(tokens[:end], start, cache, last_row=False)
            rows.append(logits)
    except _FAILURES:
        return float("inf")  # some models say themselves that they take one token at a time
    found = np.concatenate(rows)
    distance = np.abs(found - whole).max(axis=1) / np.maximum(np.abs(whole).max(axis=1), np.finfo(np.float32).tiny)
    return float(np.median(distance[sizes[0] :]))

"""Which tokens a router of a mixture of experts hesitates about, for `inflight verify`.

Two experts whose scores are nearly alike change places where numbers are rounded, and the token then meets another
matrix: its logits differ by more than rounding explains, in any engine as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Choice(NamedTuple):
    """The scores [tokens, experts] of which each token took the `top_k` greatest."""

    scores: Array
    top_k: int


def recorded_choices(choices: list[Choice]) -> AbstractContextManager[object]:
    """While it is entered, every choice that torch makes of rows of a matrix is added to `choices`: what routers do
    (`topk`, and `max` of one by one), and attention, whose scores have four axes, does not.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    ways: dict[Callable[..., Any], Callable[..., int]] = {
        torch.topk: lambda scores, k, *_, **__: int(k),
        torch.Tensor.topk: lambda scores, k, *_, **__: int(k),
        torch.Tensor.max: lambda scores, dim=None, *_, **__: 0 if dim is None else 1,
    }

    class Recorded(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            count = ways[func](*args, **(kwargs or {})) if func in ways else 0
            if count and args[0].ndim == 2:
                choices.append(Choice(args[0].detach().float().numpy().copy(), count))
            return result

    return Recorded()


def hesitating(exact: Sequence[Choice], rounded: Sequence[Choice], factor: float, tokens: int) -> Array:
    """bool [tokens]: where, in some layer, the last expert that a token takes leads the first that it does not by less
    than twice `factor` times what rounding moves their scores apart: in that token, or on average.

    `exact` and `rounded` are the choices of the same model with and without rounding, in the same order.
    """
    found = [_hesitates(one, other, factor) for one, other in zip(exact, rounded, strict=True)]
    return np.asarray(np.any(found, axis=0)) if found else np.zeros(tokens, bool)


def _hesitates(exact: Choice, rounded: Choice, factor: float) -> Array:
    scores, top_k = exact
    if top_k >= scores.shape[1]:
        return np.zeros(len(scores), bool)
    order = np.argsort(-scores, axis=1, kind="stable")[:, top_k - 1 : top_k + 1]
    lead, other = (np.take_along_axis(each, order, axis=1) for each in (scores, rounded.scores))
    with np.errstate(invalid="ignore"):
        gap, moved = lead[:, 0] - lead[:, 1], np.abs((other[:, 0] - other[:, 1]) - (lead[:, 0] - lead[:, 1]))
    moved = np.where(np.isfinite(moved), moved, np.inf)
    usual = float(np.mean(moved[np.isfinite(moved)])) if np.isfinite(moved).any() else 0.0
    return np.asarray(np.isfinite(gap) & (gap <= 2 * factor * np.maximum(moved, usual)))

"""Which tokens a router of a mixture of experts hesitates about, for `inflight verify`.

Two experts whose scores are nearly alike change places where numbers are rounded, and the token then meets another
matrix: its logits differ by more than rounding explains, in any engine as in transformers, and so do those of the
tokens behind it, which attend to it. So it is where experts weigh nothing whose scores are far enough behind (the
sparse mixer of PhiMoE), and one is at that edge. Tokens before the first such one are steady.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# A router hesitates where a lead is below so many times what rounding usually moves it: an engine rounds at other
# places, and by up to half more.
HESITATION = 6.0


class Choice(NamedTuple):
    """The scores [tokens, experts] of which each token took the `top_k` greatest; or, with an `edge`, of which each was
    compared with that number.
    """

    scores: Array
    top_k: int
    edge: float | None = None


def recorded_choices(choices: list[Choice]) -> AbstractContextManager[object]:
    """While it is entered, every choice that torch makes of rows of a matrix is added to `choices`: what routers do
    (`topk`, `max` of one by one, and comparing with a number), and attention, whose scores have four axes, does not.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    ways: dict[Callable[..., Any], Callable[..., int]] = {
        torch.topk: lambda scores, k, *_, **__: int(k),
        torch.Tensor.topk: lambda scores, k, *_, **__: int(k),
        torch.Tensor.max: lambda scores, dim=None, *_, **__: 0 if dim is None else 1,
    }
    comparisons = (torch.gt, torch.Tensor.gt, torch.Tensor.__gt__)

    class Recorded(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            count = ways[func](*args, **(kwargs or {})) if func in ways else 0
            if count and args[0].ndim == 2:
                choices.append(Choice(args[0].detach().float().numpy().copy(), count))
            if func in comparisons and args[0].ndim == 2 and isinstance(args[1], float):
                choices.append(Choice(args[0].detach().float().numpy().copy(), 0, args[1]))
            return result

    return Recorded()


def hesitating(exact: Sequence[Sequence[Choice]], rounded: Sequence[Sequence[Choice]]) -> list[Array]:
    """bool [tokens] of each text: where, in some layer, the last expert that a token takes leads the first that it does
    not, or a score is away from an edge, by less than HESITATION times what rounding moves that: in that token, or on
    average over the tokens of all texts that are steady up to that layer. Of a model without experts: bool [0].

    `exact` and `rounded` are the choices, text by text, of the same model with and without rounding, in the same order.
    """
    found = [np.zeros(len(choices[0].scores) if choices else 0, bool) for choices in exact]
    for layer in range(len(exact[0])):
        leads = [_leads(one[layer], other[layer]) for one, other in zip(exact, rounded, strict=True)]
        steady = np.concatenate([moved[before_first(seen)] for (_, moved), seen in zip(leads, found, strict=True)])
        steady = steady[np.isfinite(steady)]
        usual = float(steady.mean()) if len(steady) else 0.0
        for (gap, moved), seen in zip(leads, found, strict=True):
            seen |= np.isfinite(gap) & (gap <= HESITATION * np.maximum(moved, usual))
    return found


def before_first(hesitates: Array) -> Array:
    """bool [tokens]: those before the first that hesitates."""
    return ~np.logical_or.accumulate(hesitates)


def _leads(exact: Choice, rounded: Choice) -> tuple[Array, Array]:
    """How far the last expert taken is ahead of the next, and how far rounding moves that; infinite where there is no
    next one, or where it is out of the question. With an edge: how far the nearest score is from it.
    """
    scores, top_k, edge = exact
    if edge is not None:
        nearest = np.argmin(np.abs(scores - edge), axis=1)[:, None]
        gap, other = (np.take_along_axis(each, nearest, axis=1)[:, 0] - edge for each in (scores, rounded.scores))
        return np.abs(gap), np.abs(other - gap)
    if top_k >= scores.shape[1]:
        return np.full(len(scores), np.inf), np.zeros(len(scores))
    order = np.argsort(-scores, axis=1, kind="stable")[:, top_k - 1 : top_k + 1]
    lead, other = (np.take_along_axis(each, order, axis=1) for each in (scores, rounded.scores))
    with np.errstate(invalid="ignore"):
        gap = lead[:, 0] - lead[:, 1]
        moved = np.abs((other[:, 0] - other[:, 1]) - gap)
    return gap, np.where(np.isfinite(moved), moved, np.inf)

"""transformers in float64 throughout: its own code also computes in float32 by name (norms, softmax, rotations)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_METHODS: Mapping[Any, Callable[..., Any]] = {torch.Tensor.float: torch.Tensor.double}


class _Wide(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
    """Every call that names float32 gets float64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = {key: _wider(value) for key, value in (kwargs or {}).items()}
        return _METHODS.get(func, func)(*map(_wider, args), **named)


def _wider(value: Any) -> Any:
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


@contextmanager
def in_float64() -> Iterator[None]:
    """What is made and computed here with transformers is float64, without gradients."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Wide(), torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def made_in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with the very weights, made anew: frequencies of rotations and other constants are float64 too."""
    config = copy.deepcopy(model.config)
    config.dtype = torch.float64
    with in_float64():
        wide = type(model)(config).to(torch.float64)
        wide.load_state_dict(model.state_dict())
    return wide.eval()

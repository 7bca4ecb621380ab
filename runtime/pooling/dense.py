"""Products behind pooling: the Dense modules of sentence-transformers, and classifiers that read a mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import UnsetType

from inflight.engine_format.manifest import DenseFacts, PoolingFacts
from inflight.errors import EngineError

Wide = npt.NDArray[np.float64]


class Dense(NamedTuple):
    """weight float64 [out, in], bias float64 [out] or None; of the LayerNorm behind the activation its weight float64
    [out] and epsilon, or None."""

    weight: Wide
    bias: Wide | None
    activation: str
    norm: tuple[Wide, float] | None = None

    def __call__(self, x: Wide) -> Wide:
        y = self.weight @ x
        y = _ACTIVATIONS[self.activation](y if self.bias is None else y + self.bias)
        if self.norm is None:
            return y
        weight, epsilon = self.norm
        centred = y - y.mean()
        return np.asarray(centred / np.sqrt(np.mean(centred * centred) + epsilon) * weight)


def _gelu(x: Wide) -> Wide:
    return np.asarray(x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))))


_ACTIVATIONS: Mapping[str, Callable[[Wide], Wide]] = {
    "identity": np.asarray,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
}


def load_dense(directory: Path, facts: PoolingFacts) -> tuple[Dense, ...]:
    """Those of an engine, in their order. Raises EngineError where their file does not have them."""
    if facts.dense_file is None:
        return ()
    from safetensors.numpy import load_file

    found = load_file(directory / facts.dense_file)
    return tuple(_dense(found, index, each, directory) for index, each in enumerate(facts.dense))


def _dense(found: dict[str, Any], index: int, facts: DenseFacts, directory: Path) -> Dense:
    epsilon = facts.norm_epsilon
    norm = None if isinstance(epsilon, UnsetType) else (_part(found, f"{index}.norm.weight", directory), epsilon)
    bias = _wide(found.get(f"{index}.bias"))
    return Dense(_part(found, f"{index}.weight", directory), bias, facts.activation, norm)


def _part(found: dict[str, Any], name: str, directory: Path) -> Wide:
    array = _wide(found.get(name))
    if array is None:
        raise EngineError(f"{directory}: the file of products behind pooling has no {name}.", "Build the engine again.")
    return array


def _wide(array: npt.NDArray[Any] | None) -> Wide | None:
    return None if array is None else array.astype(np.float64)

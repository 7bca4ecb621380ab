"""Products behind pooling: the Dense modules of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import PoolingFacts
from inflight.errors import EngineError

Wide = npt.NDArray[np.float64]


class Dense(NamedTuple):
    """weight float64 [out, in], bias float64 [out] or None."""

    weight: Wide
    bias: Wide | None
    activation: str

    def __call__(self, x: Wide) -> Wide:
        y = self.weight @ x
        y = y if self.bias is None else y + self.bias
        if self.activation == "tanh":
            return np.asarray(np.tanh(y))
        return np.asarray(np.maximum(y, 0)) if self.activation == "relu" else np.asarray(y)


def load_dense(directory: Path, facts: PoolingFacts) -> tuple[Dense, ...]:
    """Those of an engine, in their order. Raises EngineError where their file does not have them."""
    if facts.dense_file is None:
        return ()
    from safetensors.numpy import load_file

    found = load_file(directory / facts.dense_file)
    return tuple(
        Dense(_part(found, f"{index}.weight", directory), _wide(found.get(f"{index}.bias")), each.activation)
        for index, each in enumerate(facts.dense)
    )


def _part(found: dict[str, Any], name: str, directory: Path) -> Wide:
    array = _wide(found.get(name))
    if array is None:
        raise EngineError(f"{directory}: the file of products behind pooling has no {name}.", "Build the engine again.")
    return array


def _wide(array: npt.NDArray[Any] | None) -> Wide | None:
    return None if array is None else array.astype(np.float64)

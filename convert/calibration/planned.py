"""The tensors of a planned checkpoint, read without writing it."""

from __future__ import annotations

import numpy as np

from inflight.convert.checkpoint.layout import module_path
from inflight.convert.plan import ConversionPlan
from inflight.convert.writer import Array, tensor_chunks


class PlannedTensors:
    """The plain tensors of a plan of one rank under their checkpoint names, read from the source when asked for."""

    def __init__(self, plan: ConversionPlan) -> None:
        (tensors,) = plan.ranks
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._dtype = plan.config.dtype

    def array(self, name: str) -> Array:
        chunks = [chunk for _, chunk in tensor_chunks(self._tensors[name], self._dtype)]
        joined: Array = np.concatenate(chunks)
        return joined

    def matrix(self, module: str) -> Array:
        return self.array(f"{module}.weight")

    def input_factors(self, module: str) -> Array | None:
        """Plain matrices multiply rows as they are."""
        return None

    def matrices(self) -> list[str]:
        """The modules of all products, by their paths."""
        matrices = (name for name, tensor in self._tensors.items() if len(tensor.shape) == 2)
        return [module_path(name) for name in matrices if name != "transformer.vocab_embedding.weight"]

    def sources(self, module: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The source tensors that make the weight of a module, and how many rows each has."""
        pieces = self._tensors[f"{module}.weight"].pieces
        return tuple(piece.source.name for piece in pieces), tuple(len(piece.rows) for piece in pieces)

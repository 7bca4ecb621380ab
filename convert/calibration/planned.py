"""The tensors of a planned checkpoint, read without writing it."""

from __future__ import annotations

import math

import numpy as np

from inflight.convert.calibration.statistics import LayerWeights
from inflight.convert.checkpoint.expert_stacks import QuantizedStack, Stack
from inflight.convert.checkpoint.layout import STACK_AXES, TABLES, module_path
from inflight.convert.plan import ConversionPlan, PlannedTensor
from inflight.convert.quantization.round_to_nearest import dequantize, unpack_pairs
from inflight.convert.quantization.rows import RowRounding
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.convert.writer import Array, tensor_chunks


class PlannedTensors:
    """The tensors of a plan of one rank under their checkpoint names, read from the source when asked for."""

    def __init__(self, plan: ConversionPlan) -> None:
        (tensors,) = plan.ranks
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._dtype = plan.config.dtype

    def array(self, name: str) -> Array:
        """A plain tensor."""
        return self._stored(name)[name]

    def matrix(self, module: str) -> Array:
        """The weight (out, in) of a module: as it is, or levels times their scales."""
        name, quantization = f"{module}.weight", self.quantization(module)
        stored = self._stored(name)
        if quantization is None:
            return stored[name]
        levels, scales = stored[name], stored[quantization.scale_name(module)]
        if quantization.bits == 4:
            levels = unpack_pairs(levels, len(scales))
        zero = quantization.zero_name(module)
        return dequantize(levels, scales, quantization.group_size, None if zero is None else stored[zero])

    def stack(self, module: str) -> Stack:
        """The matrices of all experts of a module."""
        name, quantization = f"{module}.weight", self.quantization(module)
        stored = self._stored(name)
        if quantization is None:
            return stored[name]
        zero = quantization.zero_name(module)
        scales, zeros = stored[quantization.scale_name(module)], None if zero is None else stored[zero]
        return QuantizedStack(stored[name], scales, zeros, quantization)

    def input_factors(self, module: str) -> Array | None:
        quantization = self.quantization(module)
        name = None if quantization is None else quantization.factors_name(module)
        return None if name is None else self._first(module, name)

    def below(self, prefix: str) -> LayerWeights:
        """The weights of a layer's prefix, or with an empty one of what is in no layer. Products round their rows as
        their matrices ask for it.
        """
        return LayerWeights(self, prefix, roundings=self.roundings(prefix))

    def roundings(self, prefix: str) -> dict[str, RowRounding]:
        """How the rows of the quantized modules there are rounded, by their short names."""
        modules = [module for module in (*self.matrices(), *self.stacks()) if module.startswith(prefix or "lm_head")]
        found = {module.removeprefix(prefix): self._rounding(module) for module in modules}
        return {name: each for name, each in found.items() if each is not None}

    def matrices(self) -> list[str]:
        """The modules of all products that may be quantized, by their paths, but for stacks of experts."""
        matrices = (name for name, tensor in self._tensors.items() if _is_matrix(tensor))
        tables = [f"transformer.{table}.weight" for table in TABLES]
        return [module_path(name) for name in matrices if name not in tables]

    def stacks(self) -> list[str]:
        """The modules of stacks of experts that may be quantized, by their paths."""
        found = ((name, tensor) for name, tensor in self._tensors.items() if len(tensor.shape) == STACK_AXES)
        return [module_path(name) for name, tensor in found if not tensor.plain]

    def sources(self, module: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The source tensors that make the weight of a module, and how many rows each has."""
        pieces = self._tensors[f"{module}.weight"].pieces
        return tuple(piece.source.name for piece in pieces), tuple(len(piece.rows) for piece in pieces)

    def size(self, module: str) -> int:
        """How many elements the weight of a module has."""
        return math.prod(self._tensors[f"{module}.weight"].shape)

    def quantization(self, module: str) -> WeightQuantization | None:
        """How a module is quantized; None: it is plain."""
        return self._tensors[f"{module}.weight"].quantization

    def _rounding(self, module: str) -> RowRounding | None:
        quantization = self.quantization(module)
        if quantization is None:
            return None
        name = quantization.row_scale_name(module)
        scale = None if name is None else float(self._first(module, name)[0])
        return RowRounding(quantization.activations, scale, quantization.row_limits)

    def _first(self, module: str, name: str) -> Array:
        """What tells of the rows of a module comes before its levels, and in one chunk."""
        chunks = tensor_chunks(self._tensors[f"{module}.weight"], self._dtype)
        return next(chunk for given, chunk in chunks if given == name)

    def _stored(self, tensor: str) -> dict[str, Array]:
        """What the rank file gets for a planned tensor, by name."""
        chunks: dict[str, list[Array]] = {}
        for name, chunk in tensor_chunks(self._tensors[tensor], self._dtype):
            chunks.setdefault(name, []).append(chunk)
        shapes = {each.name: each.shape for each in self._tensors[tensor].stored(self._dtype)}
        return {name: np.concatenate(each).reshape(shapes[name]) for name, each in chunks.items()}


def _is_matrix(tensor: PlannedTensor) -> bool:
    """A weight that may be quantized; biases of experts have two axes as well."""
    return tensor.name.endswith(".weight") and len(tensor.shape) == 2 and not tensor.plain

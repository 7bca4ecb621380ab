"""The quantized matrices of experts under the names that transformers has for its stacks of them, as float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import TensorSpec, module_path, quantization_of, stage_tensors
from inflight.convert.families.family import Family
from inflight.convert.quantization.dequantized.matrices import Matrix
from inflight.convert.quantization.rows import RowRounding


class DequantizedStack(NamedTuple):
    """A tensor that transformers may have, [experts, out, in] or [out, in] (or [experts, in, out], where the family has
    that), and how the rows that it meets are rounded.

    A family has several names for the same numbers; a model has one of them.
    """

    name: str
    weight: Matrix
    rows: RowRounding


class _Part(NamedTuple):
    """One of the matrices that a tensor of the checkpoint stacks, of each expert where there are several."""

    spec: TensorSpec
    place: int


def dequantized_stacks(checkpoint: Checkpoint, family: Family) -> Iterator[DequantizedStack]:
    """Every stack of a mixture whose parts are quantized, of a checkpoint of one rank, layer by layer."""
    mixture = family.mixture
    if mixture is None:
        return
    parts = _parts(checkpoint, family)
    # Where layers are in this model: those of a decoder inside another one are below a name of its own.
    layers = family.names["mlp.fc"][0].partition("{layer}")[0]
    for layer in range(len(checkpoint.spec.layers)):
        prefix = f"{layers}{layer}."
        for name, tensors in mixture.stacks.items():
            found = [parts.get(prefix + module_path(tensor)) for tensor in tensors]
            known = [part for part in found if part is not None]
            if len(known) == len(found):
                quantization = quantization_of(known[0].spec, checkpoint.config)
                assert quantization is not None, f"{name} is plain"
                matrices = [_matrices(checkpoint, part) for part in known]
                weight = _alternating(matrices) if mixture.alternates else np.concatenate(matrices, axis=-2)
                weight = weight.swapaxes(-1, -2) if mixture.transposed else weight
                yield DequantizedStack(prefix + name, weight, RowRounding(quantization.activations))


def _alternating(matrices: list[Matrix]) -> Matrix:
    """[experts, in, out], the outputs of the matrices in turn."""
    experts, _, inputs = matrices[0].shape
    together: Matrix = np.stack(matrices, axis=2).reshape(experts, -1, inputs).transpose(0, 2, 1)
    return together


def _parts(checkpoint: Checkpoint, family: Family) -> dict[str, _Part]:
    """The quantized matrices by their Hugging Face modules, those of experts with {expert} in place of a number."""
    found = {}
    for spec in stage_tensors(checkpoint.config, checkpoint.spec, 0):
        if spec.layer is not None and quantization_of(spec, checkpoint.config) is not None:
            for index, name in enumerate(family.names[spec.module]):
                found[name.format(layer=spec.layer, expert="{expert}")] = _Part(spec, index)
    return found


def _matrices(checkpoint: Checkpoint, part: _Part) -> Matrix:
    spec, module = part.spec, module_path(part.spec.name)
    if spec.experts is None:
        every: Matrix = np.split(checkpoint.matrix(module), np.cumsum(spec.parts)[:-1])[part.place].astype(np.float32)
        return every
    stack, count = checkpoint.stack(module), len(spec.parts) // spec.experts
    ends = np.cumsum(spec.parts[:count])[:-1]
    return np.stack([np.split(stack[e], ends)[part.place].astype(np.float32) for e in range(spec.experts)])

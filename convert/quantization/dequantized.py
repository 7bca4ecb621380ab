"""The quantized matrices of a checkpoint under their Hugging Face names, as float32, for transformers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import TensorSpec, module_path, quantization_of, stage_tensors
from inflight.convert.families.table import FAMILIES
from inflight.convert.quantization.scheme import ACTIVATION_SCALE_SUFFIX


def dequantized_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(Hugging Face module, weight float32 [out, in]) of every quantized matrix of a checkpoint of one rank.

    attention.qkv comes as its three parts. The projection of a tied model is one of its own here.
    """
    for spec, names in _quantized_matrices(checkpoint):
        parts = np.split(checkpoint.matrix(module_path(spec.name)), np.cumsum(spec.parts)[:-1])
        yield from zip(names, parts, strict=True)


def float8_row_scales(checkpoint: Checkpoint) -> dict[str, float]:
    """By Hugging Face module, what the rows of every matrix of 8-bit floats are divided by before they are rounded."""
    if checkpoint.quantization is None or not checkpoint.quantization.is_float8:
        return {}
    return {
        name: float(checkpoint.array(f"{module_path(spec.name)}{ACTIVATION_SCALE_SUFFIX}")[0])
        for spec, names in _quantized_matrices(checkpoint)
        for name in names
    }


def _quantized_matrices(checkpoint: Checkpoint) -> Iterator[tuple[TensorSpec, list[str]]]:
    """Every quantized matrix with its Hugging Face modules."""
    family = next(family for family in FAMILIES if family.architecture == checkpoint.config.architecture)
    for spec in stage_tensors(checkpoint.config, checkpoint.spec, 0):
        if quantization_of(spec, checkpoint.config) is not None:
            yield spec, [name.format(layer=spec.layer) for name in family.names[spec.module]]

"""The quantized matrices of a checkpoint under their Hugging Face names, as float32, for transformers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import TensorSpec, module_path, quantization_of, stage_tensors
from inflight.convert.families.table import FAMILIES
from inflight.convert.quantization.rows import RowRounding


def dequantized_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(Hugging Face module, weight float32 [out, in]) of every quantized matrix of a checkpoint of one rank.

    attention.qkv comes as its three parts. The projection of a tied model is one of its own here. The weights meet rows
    times their `input_factors`.
    """
    for spec, names in _quantized_matrices(checkpoint):
        parts = np.split(checkpoint.matrix(module_path(spec.name)), np.cumsum(spec.parts)[:-1])
        yield from zip(names, parts, strict=True)


def row_roundings(checkpoint: Checkpoint) -> dict[str, RowRounding]:
    """By Hugging Face module, how the rows of every quantized matrix are rounded."""
    roundings = {}
    for spec, names in _quantized_matrices(checkpoint):
        quantization = quantization_of(spec, checkpoint.config)
        assert quantization is not None, f"{spec.name} is plain"
        module = module_path(spec.name)
        stored = quantization.row_scale_name(module)
        scale = None if stored is None else float(checkpoint.array(stored)[0])
        rounding = RowRounding(quantization.activations, scale, quantization.row_limits)
        roundings.update(dict.fromkeys(names, rounding))
    return roundings


def input_factors(checkpoint: Checkpoint) -> dict[str, npt.NDArray[np.float32]]:
    """By Hugging Face module, what the values of its rows are multiplied by first, [in]."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    for spec, names in _quantized_matrices(checkpoint):
        factors = checkpoint.input_factors(module_path(spec.name))
        if factors is not None:
            found.update(dict.fromkeys(names, factors.astype(np.float32)))
    return found


def plain_matrices(checkpoint: Checkpoint) -> list[str]:
    """The Hugging Face modules of every product whose weights are plain."""
    plain = [names for spec, names in _matrices(checkpoint) if quantization_of(spec, checkpoint.config) is None]
    tied = [["lm_head"]] if checkpoint.ties_embeddings else []
    return [name for names in (*plain, *tied) for name in names]


def _quantized_matrices(checkpoint: Checkpoint) -> Iterator[tuple[TensorSpec, list[str]]]:
    """Every quantized matrix with its Hugging Face modules."""
    for spec, names in _matrices(checkpoint):
        if quantization_of(spec, checkpoint.config) is not None:
            yield spec, names


def _matrices(checkpoint: Checkpoint) -> Iterator[tuple[TensorSpec, list[str]]]:
    """The matrix of every product with its Hugging Face modules."""
    family = next(family for family in FAMILIES if family.architecture == checkpoint.config.architecture)
    for spec in stage_tensors(checkpoint.config, checkpoint.spec, 0):
        if spec.kind == "weight" and spec.columns is not None and spec.module != "vocab_embedding" and not spec.plain:
            yield spec, [name.format(layer=spec.layer) for name in family.names[spec.module]]

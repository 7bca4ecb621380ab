"""The quantized matrices of a checkpoint under their Hugging Face names, as float32, for transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.layout import TensorSpec, is_product, module_path, quantization_of, stage_tensors
from inflight.convert.families.family import Family
from inflight.convert.families.fused import Order, Rows
from inflight.convert.quantization.rows import RowRounding

Matrix = npt.NDArray[np.float32]


class _Place(NamedTuple):
    """A Hugging Face module, and which of its rows; None: all of them, in their order."""

    module: str
    order: Order | None


def dequantized_weights(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[str, Matrix]]:
    """(Hugging Face module, its weight float32) of every quantized matrix of a checkpoint of one rank, made from a
    model of this family.

    attention.qkv comes as its three parts, or as the one matrix that the family has for them. The projection of a tied
    model is one of its own here. The weights meet rows times their `input_factors`.
    """
    wanted = {place.module for _, places in _quantized_matrices(checkpoint, family) for place in places}
    pieces: dict[str, list[tuple[Order | None, Matrix]]] = {}
    for spec, places in _matrices(checkpoint, family):
        if wanted.isdisjoint(place.module for place in places):
            continue
        parts = np.split(checkpoint.matrix(module_path(spec.name)), np.cumsum(spec.parts)[:-1])
        for place, part in zip(places, parts, strict=True):
            pieces.setdefault(place.module, []).append((place.order, part.astype(np.float32)))
    layers = range(len(checkpoint.spec.layers))
    transposed = {name.format(layer=layer) for name in family.transposed for layer in layers}
    for module, found in pieces.items():
        weight = _joined(found)
        yield module, weight.T if module in transposed else weight


def _joined(pieces: list[tuple[Order | None, Matrix]]) -> Matrix:
    """The whole matrix of its pieces, each at its rows."""
    if pieces[0][0] is None:
        return pieces[0][1]
    orders = [order for order, _ in pieces if order is not None]
    whole = np.zeros((sum(map(len, orders)), pieces[0][1].shape[1]), np.float32)
    for order, (_, part) in zip(orders, pieces, strict=True):
        whole[order] = part
    return whole


def row_roundings(checkpoint: Checkpoint, family: Family) -> dict[str, RowRounding]:
    """By Hugging Face module, how the rows of every quantized matrix are rounded."""
    roundings = {}
    for spec, places in _quantized_matrices(checkpoint, family):
        quantization = quantization_of(spec, checkpoint.config)
        assert quantization is not None, f"{spec.name} is plain"
        module = module_path(spec.name)
        stored = quantization.row_scale_name(module)
        scale = None if stored is None else float(checkpoint.array(stored)[0])
        rounding = RowRounding(quantization.activations, scale, quantization.row_limits)
        roundings.update(dict.fromkeys((place.module for place in places), rounding))
    return roundings


def input_factors(checkpoint: Checkpoint, family: Family) -> dict[str, Matrix]:
    """By Hugging Face module, what the values of its rows are multiplied by first, [in]."""
    found: dict[str, Matrix] = {}
    for spec, places in _quantized_matrices(checkpoint, family):
        factors = checkpoint.input_factors(module_path(spec.name))
        if factors is not None:
            found.update(dict.fromkeys((place.module for place in places), factors.astype(np.float32)))
    return found


def plain_matrices(checkpoint: Checkpoint, family: Family) -> list[str]:
    """The Hugging Face modules of every product whose weights are plain."""
    quantized = {place.module for _, places in _quantized_matrices(checkpoint, family) for place in places}
    every = {place.module: None for _, places in _matrices(checkpoint, family) for place in places}
    tied = family.names["lm_head"] if checkpoint.ties_embeddings else ()
    return [name for name in (*every, *tied) if name not in quantized]


def _quantized_matrices(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[TensorSpec, list[_Place]]]:
    """Every quantized matrix with its Hugging Face modules."""
    for spec, places in _matrices(checkpoint, family):
        if quantization_of(spec, checkpoint.config) is not None:
            yield spec, places


def _matrices(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[TensorSpec, list[_Place]]]:
    """The matrix of every product with its Hugging Face modules, but for those of experts (stacks.py)."""
    arrangement = family.arrangement(checkpoint.config)
    for spec in stage_tensors(checkpoint.config, checkpoint.spec, 0):
        if is_product(spec) and not spec.plain and spec.experts is None:
            yield spec, [_place(arrangement.get(name), name, spec.layer) for name in family.names[spec.module]]


def _place(rows: Rows | None, name: str, layer: int | None) -> _Place:
    module, order = (name, None) if rows is None else (rows.module, rows.order)
    return _Place(module.format(layer=layer), order)

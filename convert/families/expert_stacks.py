"""Stacks of experts in a source as the matrices (out, in) of each: the names that their family has for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from inflight.convert.families.arranged import PickedRows, Transposed
from inflight.convert.families.mixtures import Mixture
from inflight.convert.source.quantized.mxfp4 import Mxfp4Stack
from inflight.convert.source.quantized.scaled import ScaledStack
from inflight.convert.source.tensor import PlainTensor, SourceTensor
from inflight.files.tensor_file import TensorEntry

_LAYER = re.compile(r"((?:language_model\.)?model\.(?:language_model\.)?layers\.(\d+)\.)(.+)")


def expert_matrices(
    mixture: Mixture | None, tensors: Mapping[str, SourceTensor], layers: Any
) -> Mapping[str, SourceTensor]:
    """`tensors` with the parts of each stack in its place. A stack that does not divide stays as it is: whoever
    accounts for the tensors says so. Of a family that predicts several tokens, tensors of layers from `layers` on,
    which do nothing else, are left out.
    """
    if mixture is None:
        return tensors
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        prefix, below = (match[1], match[3]) if match else ("", name)
        if mixture.predicts_further and match and isinstance(layers, int) and int(match[2]) >= layers:
            continue
        modules = mixture.stacks.get(below)
        cut = partial(_across, alternates=mixture.alternates) if mixture.alternates or mixture.transposed else _parts
        if modules is not None and (parts := list(cut(tensor, prefix, modules))):
            found.update({part.name: part for part in parts})
        elif below in mixture.renamed:
            name = f"{prefix}{mixture.renamed[below]}"
            found[name] = _without_groups(name, tensor) if mixture.biased_choice else tensor
        else:
            found[name] = tensor
    return found


def _without_groups(name: str, tensor: SourceTensor) -> SourceTensor:
    """A bias of all experts that is stored for one group of them, [1, experts], as a vector."""
    if not isinstance(tensor, PlainTensor) or len(tensor.shape) != 2 or tensor.shape[0] != 1:
        return tensor
    return PlainTensor(replace(tensor.entry, name=name, shape=tensor.shape[1:]))


def _parts(tensor: SourceTensor, prefix: str, modules: tuple[str, ...]) -> Iterator[SourceTensor]:
    """Each expert's rows of each module; of a matrix that is no stack, the rows of each module."""
    stacked = "{expert}" in modules[0]
    if isinstance(tensor, ScaledStack) and stacked:
        yield from _across(tensor, prefix, modules, alternates=False, turned=False)
        return
    if not isinstance(tensor, PlainTensor) or len(tensor.shape) != 2 + stacked or tensor.shape[-2] % len(modules):
        return
    count, rows = (tensor.shape[0] if stacked else 1), tensor.shape[-2] // len(modules)
    entry = tensor.entry
    size = entry.nbytes // max(1, count * len(modules))
    for expert in range(count):
        for index, module in enumerate(modules):
            yield PlainTensor(
                replace(
                    entry,
                    name=prefix + module.format(expert=expert),
                    shape=(rows, tensor.shape[-1]),
                    offset=entry.offset + (expert * len(modules) + index) * size,
                    nbytes=size,
                )
            )


def _across(
    tensor: SourceTensor, prefix: str, modules: tuple[str, ...], *, alternates: bool, turned: bool = True
) -> Iterator[SourceTensor]:
    """The same of stacks (experts, in, out), or biases (experts, out), whose outputs are those of the modules one
    behind the other, or in turn; those that are not `turned` are (experts, out, in)."""
    if len(tensor.shape) not in (2, 3) or tensor.shape[-1 if turned else -2] % len(modules):
        return
    for expert in range(tensor.shape[0]):
        whole = _of_expert(tensor, expert, turned=turned)
        for index, module in enumerate(modules) if whole is not None else ():
            assert whole is not None
            every = np.arange(whole.shape[0])
            rows = every[index :: len(modules)] if alternates else np.split(every, len(modules))[index]
            yield PickedRows(prefix + module.format(expert=expert), whole, rows)


def _of_expert(tensor: SourceTensor, expert: int, *, turned: bool) -> SourceTensor | None:
    """The matrix (out, in) of an expert, or its bias."""
    if isinstance(tensor, ScaledStack):
        return tensor.expert(expert, turned=turned)
    if isinstance(tensor, Mxfp4Stack):
        return tensor.expert(expert)
    if not isinstance(tensor, PlainTensor):
        return None
    plain = PlainTensor(slice_of(tensor.entry, expert))
    return plain if len(plain.shape) == 1 else Transposed(plain.name, plain)


def slice_of(entry: TensorEntry, index: int) -> TensorEntry:
    """What lies at a place of the first axis."""
    size = entry.nbytes // max(1, entry.shape[0])
    return replace(entry, shape=entry.shape[1:], offset=entry.offset + index * size, nbytes=size)

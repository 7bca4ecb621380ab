"""Quantized sources whose numbers are kept: the form of each matrix, and what config.json says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.convert.quantization.codebooks import INTEGER_FACTORS
from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.modules import MIXED_PRECISION, ModuleQuantization, first_of_pair
from inflight.convert.quantization.scheme import WEIGHT_LAYOUT
from inflight.convert.quantization.schemes import SCHEMES, QuantScheme
from inflight.convert.source.tensor import LevelForm, Measured, SourceTensor
from inflight.dtypes import numpy_dtype

# Groups of inputs that share a scale are multiples of so many, or whole rows.
_LEAST_GROUP = 16


def kept_forms(
    sources: Mapping[str, Sequence[SourceTensor]], stacks: Collection[str] = (), dtype: str | None = None
) -> dict[str, LevelForm]:
    """By module path, the form that holds the levels of all source tensors of a module; none for a module of which a
    tensor has no levels to keep. A gate and its partner have one form. `stacks` of experts have no factors or orders,
    and levels of one kind in both of a layer, or none; factors are written as `dtype`.
    """
    together: dict[str, list[SourceTensor]] = {}
    for module, tensors in sources.items():
        together.setdefault(first_of_pair(module), []).extend(tensors)
    joined = {module: _joined(tensors, dtype) for module, tensors in together.items()}
    forms = {module: form for module, form in joined.items() if form and not (module in stacks and _of_rows(form))}
    for module in _torn(forms, stacks):
        forms.pop(module, None)
    return {module: forms[first_of_pair(module)] for module in sources if first_of_pair(module) in forms}


def _torn(forms: Mapping[str, LevelForm], stacks: Collection[str]) -> list[str]:
    """Stacks of layers of whose experts one kernel cannot read both: one has no form, or 8-bit floats alone."""
    layers: dict[str, list[str]] = {}
    for module in stacks:
        layers.setdefault(module.rpartition(".")[0], []).append(module)
    kinds = {
        layer: {forms[each].floats if each in forms else None for each in listed} for layer, listed in layers.items()
    }
    return [module for layer, listed in layers.items() if len(kinds[layer]) > 1 for module in listed]


def kept_quantization(forms: Mapping[str, LevelForm], widths: Mapping[str, int]) -> ModuleQuantization:
    """What the checkpoint says of modules with levels of these forms, whose matrices have so many inputs."""
    if not forms:
        return ModuleQuantization(QuantizationFacts(), {})
    layers: dict[str, QuantizationFacts] = {}
    members: dict[QuantScheme, list[str]] = {}
    for module, form in forms.items():
        scheme = _scheme(form, widths[module])
        guarded = form.zeros or form.ordered or scheme.weights.guarded
        given = {"group_size": form.group_size} if scheme.weights.scale == "group" else {}
        given |= {"has_zero_point": True} if form.zeros else {}
        given |= {"pre_quant_scale": True} if form.scaled else {}
        given |= {"desc_act": True} if form.ordered else {}
        layers[module] = QuantizationFacts.model_validate(
            {"quant_algo": scheme.algorithm, "weight_layout": WEIGHT_LAYOUT if guarded else None, **given}
        )
        members.setdefault(scheme, []).append(module)
    records = tuple(
        QuantizationRecord(
            scheme=scheme.name,
            activations=scheme.rows.dtype,
            rounding="kept",
            scale_divisors=(),
            modules=tuple(modules),
        )
        for scheme, modules in members.items()
    )
    return ModuleQuantization(QuantizationFacts(quant_algo=MIXED_PRECISION), layers, records)


def _of_rows(form: LevelForm) -> bool:
    """True for what asks more of the rows than the kernels of experts make of them."""
    return form.scaled or form.ordered


def _joined(tensors: Sequence[SourceTensor], dtype: str | None) -> LevelForm | None:
    """The smallest form that holds the levels of all, which meet the same rows."""
    forms = [tensor.form for tensor in tensors]
    known = [form for form in forms if form is not None]
    if len(known) < len(forms) or not _meet_the_same_rows(tensors, dtype):
        return None
    found = _joined_levels(tensors[0].shape[1], known)
    return found and found._replace(scaled=known[0].scaled, ordered=known[0].ordered)


def _meet_the_same_rows(tensors: Sequence[SourceTensor], dtype: str | None) -> bool:
    """True where all have the same factors and order of inputs, or none, and factors are numbers of type `dtype`."""
    first, *others = [tensor.measured or Measured() for tensor in tensors]
    alike = all(_equal(first.factors, other.factors) and _equal(first.order, other.order) for other in others)
    factors = first.factors
    if factors is None or not alike:
        return alike
    return dtype is not None and np.array_equal(factors.astype(numpy_dtype(dtype)).astype(np.float32), factors)


def _equal(one: npt.NDArray[Any] | None, other: npt.NDArray[Any] | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def _joined_levels(width: int, known: Sequence[LevelForm]) -> LevelForm | None:
    """Of matrices with so many inputs."""
    size, zeros = gcd(*(form.group_size for form in known)), any(form.zeros for form in known)
    if size % _LEAST_GROUP and size != width:
        return None
    if any(form.floats for form in known):
        return LevelForm(8, size, False, floats=True) if all(form.floats for form in known) and not zeros else None
    codebooks = {form.codebook for form in known}
    if codebooks == {None}:
        return LevelForm(max(form.bits for form in known), size, zeros)
    if len(codebooks) == 1:
        return LevelForm(4, size, zeros, next(iter(codebooks)))
    # Beside levels of other forms, numbers of a codebook stay what they are as integers, if they are some.
    return LevelForm(8, size, zeros) if codebooks - {None} <= INTEGER_FACTORS.keys() else None


def _scheme(form: LevelForm, width: int) -> QuantScheme:
    if form.codebook is not None:
        return next(s for s in SCHEMES if s.weights.codebook == form.codebook and s.rows.dtype == "int16")
    kind = "fp8" if form.floats else f"int{form.bits}"
    whole = form.bits == 4 or (form.group_size == width and not form.zeros)
    name = f"{kind}_wo" if whole else f"{kind}_groups_wo"
    return next(scheme for scheme in SCHEMES if scheme.name == name)

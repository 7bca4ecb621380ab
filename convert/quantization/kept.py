"""Quantized sources whose numbers are kept: the form of each matrix, and what config.json says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from inflight.convert.quantization.codebooks import INTEGER_FACTORS
from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.modules import MIXED_PRECISION, ModuleQuantization, first_of_pair
from inflight.convert.quantization.scheme import WEIGHT_LAYOUT
from inflight.convert.quantization.schemes import SCHEMES, QuantScheme
from inflight.convert.source.tensor import LevelForm, SourceTensor

# Groups of inputs that share a scale are multiples of so many, or whole rows.
_LEAST_GROUP = 16


def kept_forms(sources: Mapping[str, Sequence[SourceTensor]]) -> dict[str, LevelForm]:
    """By module path, the form that holds the levels of all source tensors of a module; none for a module of which a
    tensor has no levels to keep. A gate and its partner have one form.
    """
    together: dict[str, list[SourceTensor]] = {}
    for module, tensors in sources.items():
        together.setdefault(first_of_pair(module), []).extend(tensors)
    forms = {module: form for module, tensors in together.items() if (form := _joined(tensors)) is not None}
    return {module: forms[first_of_pair(module)] for module in sources if first_of_pair(module) in forms}


def kept_quantization(forms: Mapping[str, LevelForm], widths: Mapping[str, int]) -> ModuleQuantization:
    """What the checkpoint says of modules with levels of these forms, whose matrices have so many inputs."""
    if not forms:
        return ModuleQuantization(QuantizationFacts(), {})
    layers: dict[str, QuantizationFacts] = {}
    members: dict[str, list[str]] = {}
    for module, form in forms.items():
        scheme = _scheme(form, widths[module])
        guarded = form.zeros or scheme.weights.guarded
        given = {"group_size": form.group_size} if scheme.weights.scale == "group" else {}
        given |= {"has_zero_point": True} if form.zeros else {}
        layers[module] = QuantizationFacts.model_validate(
            {"quant_algo": scheme.algorithm, "weight_layout": WEIGHT_LAYOUT if guarded else None, **given}
        )
        members.setdefault(scheme.name, []).append(module)
    records = tuple(
        QuantizationRecord(scheme=name, activations="int16", rounding="kept", scale_divisors=(), modules=tuple(modules))
        for name, modules in members.items()
    )
    return ModuleQuantization(QuantizationFacts(quant_algo=MIXED_PRECISION), layers, records)


def _joined(tensors: Sequence[SourceTensor]) -> LevelForm | None:
    """The smallest form that holds the levels of all."""
    forms = [tensor.form for tensor in tensors]
    known = [form for form in forms if form is not None]
    if len(known) < len(forms):
        return None
    size, zeros = gcd(*(form.group_size for form in known)), any(form.zeros for form in known)
    if size % _LEAST_GROUP and size != tensors[0].shape[1]:
        return None
    codebooks = {form.codebook for form in known}
    if codebooks == {None}:
        return LevelForm(max(form.bits for form in known), size, zeros)
    if len(codebooks) == 1:
        return LevelForm(4, size, zeros, *codebooks)
    # Beside levels of other forms, numbers of a codebook stay what they are as integers, if they are some.
    return LevelForm(8, size, zeros) if codebooks - {None} <= INTEGER_FACTORS.keys() else None


def _scheme(form: LevelForm, width: int) -> QuantScheme:
    if form.codebook is not None:
        return next(s for s in SCHEMES if s.weights.codebook == form.codebook and s.rows.dtype == "int16")
    names = {4: "int4_wo", 8: "int8_wo" if form.group_size == width and not form.zeros else "int8_groups_wo"}
    return next(scheme for scheme in SCHEMES if scheme.name == names[form.bits])

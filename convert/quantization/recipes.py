"""What `inflight convert --quantize` writes into config.json."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from inflight.convert.checkpoint.expert_stacks import of_experts
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.modules import GATED_PAIR, MIXED_PRECISION, ModuleQuantization, matches
from inflight.convert.quantization.scheme import WEIGHT_LAYOUT
from inflight.convert.quantization.schemes import RECIPES, QuantScheme

# The scheme of every matrix by its module path; None: plain.
Chosen = Mapping[str, QuantScheme | None]


def choose_schemes(options: ConvertOptions, modules: Iterable[str], stacks: Collection[str] = ()) -> Chosen:
    """The scheme of each of these matrices: none where it is excluded, else that of the first pattern of
    `module_schemes` that names it, else what `quantize` has for it. `stacks` are those of experts.
    """
    chosen = {module: _choose(options, module) for module in modules}
    return {module: of_experts(each) if module in stacks else each for module, each in chosen.items()}


def _choose(options: ConvertOptions, module: str) -> QuantScheme | None:
    if matches(module, options.exclude_modules):
        return None
    for pattern, name in options.module_schemes:
        if fnmatchcase(module, pattern):
            return RECIPES[name]
    if options.quantize is None or matches(module, RECIPES[options.quantize].excluded):
        return None
    scheme = RECIPES[options.quantize]
    own = next((name for pattern, name in scheme.modules if fnmatchcase(module, pattern)), scheme.name)
    return RECIPES[own]


def module_quantization(options: ConvertOptions, chosen: Chosen) -> ModuleQuantization:
    """What the checkpoint says of its matrices: in one block where all that are quantized are so alike and patterns
    tell which they are, else of each.
    """
    names = {scheme.name for scheme in chosen.values() if scheme is not None}
    if not names:
        return ModuleQuantization(QuantizationFacts(), {})
    if len(names) == 1:
        scheme = RECIPES[next(iter(names))]
        excluded = (*scheme.excluded, *options.exclude_modules)
        facts = _facts(scheme, options).model_copy(update={"exclude_modules": excluded})
        if all(matches(module, excluded) == (each is None) for module, each in chosen.items()):
            return ModuleQuantization(facts, {}, (_record(scheme),))
    members: dict[str, list[str]] = {}
    for module, each in chosen.items():
        if each is not None:
            members.setdefault(each.name, []).append(module)
    main = options.quantize if options.quantize in members else None
    records = [_record(RECIPES[name], () if name == main else listed) for name, listed in members.items()]
    layers = {module: _facts(each, options) for module, each in chosen.items() if each is not None}
    return ModuleQuantization(QuantizationFacts(quant_algo=MIXED_PRECISION), layers, tuple(records))


def torn_pairs(chosen: Chosen) -> list[str]:
    """A line for the first gate and partner that would be quantized in two ways: one kernel reads both."""
    first, second = GATED_PAIR
    for module, scheme in chosen.items():
        other = chosen.get(module.removesuffix(first) + second) if module.endswith(first) else None
        if scheme is not None and other is not None and scheme.name != other.name:
            partner = module.removesuffix(first) + second
            return [
                f"--quantize-module: {module} would be {scheme.name} and {partner} {other.name}, and one kernel reads "
                "both: give the two one scheme"
            ]
    return []


def torn_stacks(chosen: Chosen, stacks: Iterable[str]) -> list[str]:
    """A line for the first layer of whose experts one stack would be quantized and the other not."""
    plain = [module for module in stacks if chosen[module] is None]
    for module in stacks:
        other = next((each for each in plain if each.rpartition(".")[0] == module.rpartition(".")[0]), None)
        if chosen[module] is not None and other is not None:
            return [f"{module} is quantized and {other} is not: one kernel reads both"]
    return []


def _facts(scheme: QuantScheme, options: ConvertOptions) -> QuantizationFacts:
    facts: dict[str, Any] = {"quant_algo": scheme.algorithm}
    facts["weight_layout"] = WEIGHT_LAYOUT if scheme.weights.guarded else None
    if scheme.weights.scale == "group":
        facts["group_size"] = group_size_of(scheme, options)
    if scheme.method in ("smoothquant", "smoothed_gptq"):
        facts |= {"pre_quant_scale": True, "smoothquant_val": options.smoothing}
    if scheme.method == "awq":
        facts["pre_quant_scale"] = True
    return QuantizationFacts(**facts)


def group_size_of(scheme: QuantScheme, options: ConvertOptions) -> int:
    """Of a scheme that has groups: that of the options where they say one, else its own."""
    chosen = "group_size" in options.model_fields_set or not scheme.group_size
    return options.group_size if chosen else scheme.group_size


def _record(scheme: QuantScheme, modules: Iterable[str] = ()) -> QuantizationRecord:
    return QuantizationRecord(
        scheme=scheme.name,
        activations=scheme.rows.dtype,
        rounding=scheme.method,
        scale_divisors=scheme.divisors,
        modules=tuple(modules),
    )

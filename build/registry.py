"""Targets by name: the project's own, and those that other packages register under `inflight.targets`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from inflight.build.recipe import BuildRecipe, flag_name, refuse_problems
from inflight.build.target import AnyTarget
from inflight.engine_format.registry import Registry
from inflight.errors import BuildError, InflightError

GROUP = "inflight.targets"


def _cpu() -> AnyTarget[Any]:
    from inflight.build.targets.cpu.target import TARGET

    return TARGET


def _cuda() -> AnyTarget[Any]:
    from inflight.build.targets.cuda.target import TARGET

    return TARGET


def _reference() -> AnyTarget[Any]:
    from inflight.build.targets.reference.target import TARGET

    return TARGET


def _tensorrt() -> AnyTarget[Any]:
    from inflight.build.targets.tensorrt.target import TARGET

    return TARGET


def _transformers() -> AnyTarget[Any]:
    from inflight.build.targets.transformers.target import TARGET

    return TARGET


_OWN: Mapping[str, Callable[[], AnyTarget[Any]]] = {
    "cpu": _cpu,
    "cuda": _cuda,
    "reference": _reference,
    "tensorrt": _tensorrt,
    "transformers": _transformers,
}
TARGETS: Registry[AnyTarget[Any]] = Registry("target", GROUP, AnyTarget, _OWN)  # type: ignore[type-abstract]


def find_target(name: str) -> AnyTarget[Any]:
    """The target of that name. Raises BuildError when there is none, or it cannot be loaded."""
    try:
        return TARGETS.find(name)
    except InflightError as error:
        raise BuildError(error.message, error.hint) from error


def loadable_targets() -> dict[str, AnyTarget[Any]]:
    """All registered targets but those that cannot be loaded."""
    return {name: found for name, found in TARGETS.all().items() if isinstance(found, AnyTarget)}


def make_recipe(target: str = "cpu", **fields: Any) -> BuildRecipe:
    """A recipe of a target's own class. Raises BuildError for an unknown target or field, a field of another target,
    and values that it does not take."""
    recipe_class: type[BuildRecipe] = find_target(target).recipe_class()
    unknown = fields.keys() - recipe_class.model_fields.keys()
    if unknown:
        refuse_problems(_flags_of_others(target, unknown))
    try:
        return recipe_class.model_validate(fields)
    except ValidationError as error:
        raise BuildError(
            f"This is no recipe of target {target}:\n"
            + "\n".join(f"  {flag_name(str(one['loc'][0]))}: {one['msg']}" for one in error.errors() if one["loc"])
        ) from error


def check_capabilities(
    target: AnyTarget[Any], recipe: BuildRecipe, dtype: str, quant_algos: Sequence[str], pooling: bool = False
) -> None:
    """Raises BuildError where a target does not take a checkpoint of this type and these algorithms, or the cache that
    the resolved recipe asks for; or one whose hidden states are pooled."""
    able, name = target.capabilities, target.name
    problems = []
    if dtype not in able.dtypes:
        problems.append(f"a checkpoint in {dtype}: target {name} takes {_listed(able.dtypes)}.")
    if recipe.kv_cache_dtype not in (able.kv_cache_dtypes or (dtype,)):
        problems.append(f"--kv-cache-dtype {recipe.kv_cache_dtype}: {_cache_types(target, dtype)}.")
    if pooling and not able.pooling:
        problems.append(
            f"a model for embeddings or reranking: it is for --target {_listed(_pooling_targets())}, "
            f"and this is {name}."
        )
    if able.quantization is not None:
        problems += [
            f"a checkpoint quantized with {algorithm}: target {name} takes {_listed(able.quantization)}."
            for algorithm in quant_algos
            if algorithm not in able.quantization
        ]
    if recipe.kv_cache_type not in (None, *able.kv_cache_types):
        problems.append(
            f"--kv-cache-type {recipe.kv_cache_type}: {_who_has_it(str(recipe.kv_cache_type))}; the cache of {name} is "
            f"{_listed(able.kv_cache_types)}."
        )
    refuse_problems(problems)


def _cache_types(target: AnyTarget[Any], dtype: str) -> str:
    able = target.capabilities.kv_cache_dtypes
    if able is None:
        return f"{target.name}'s KV cache has the type of its attention, {dtype}"
    return f"{target.name}'s KV cache has the type {_listed(able)}"


def _who_has_it(kv_cache_type: str) -> str:
    able = [name for name, each in loadable_targets().items() if kv_cache_type in each.capabilities.kv_cache_types]
    return f"it is for --target {_listed(able)}" if able else "no target has it"


def _pooling_targets() -> list[str]:
    return [name for name, each in loadable_targets().items() if each.capabilities.pooling]


def _flags_of_others(target: str, unknown: set[str]) -> list[str]:
    """One sentence for each set of flags that the same targets have, and one for fields that no target has."""
    owners = {
        field: tuple(name for name, other in loadable_targets().items() if field in other.recipe_class().own_fields())
        for field in sorted(unknown)
    }
    problems = []
    for names in sorted(set(owners.values()) - {()}):
        flags = [flag_name(field) for field, those in owners.items() if those == names]
        they = f"{_listed(flags, 'and')}: they are" if len(flags) > 1 else f"{flags[0]}: it is"
        problems.append(f"{they} for --target {_listed(names)}, and this is {target}.")
    return problems + [f"{flag_name(field)}: no target has it." for field, names in owners.items() if not names]


def _listed(words: Sequence[str], last: str = "or") -> str:
    if not words:
        return "nothing"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"

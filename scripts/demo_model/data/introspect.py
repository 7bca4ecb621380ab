"""Print what this interpreter's standard library says of itself, as one JSON object.

Runs in a process of its own (see corpus.py): it imports the whole library.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from types import ModuleType
from typing import Any

from demo_model.data.docstrings import first_sentence
from demo_model.data.facts import Fact
from demo_model.data.modules import public_modules
from demo_model.data.signatures import signature_of

# What the library writes where nobody wrote a docstring.
EMPTY_DESCRIPTIONS = frozenset({"An enumeration.", "Deprecated AST node class.", "Abc."})


def main() -> None:
    modules = list(public_modules())
    facts = _facts(modules)
    attributes = {name: sorted(vars(module)) for name, module in modules}
    attributes |= {name: sorted(dir(owner)) for name, owner in _classes(modules)}
    seen = {fact.description for fact in facts}
    unseen = sorted({text: name for name, text in _private_descriptions(modules) if text not in seen}.items())
    json.dump(
        {
            "facts": [asdict(fact) for fact in facts],
            "attributes": attributes,
            "unseen": [(name, text) for text, name in unseen],
        },
        sys.stdout,
    )


def _facts(modules: Iterable[tuple[str, ModuleType]]) -> list[Fact]:
    """One fact for each object: the shortest of its public names stands for all. Sorted; no name occurs twice."""
    kept: dict[int, tuple[Any, Fact]] = {}  # with the object, since an id may be used again once its object is gone
    for owner, fact in _all_facts(modules):
        other = kept.get(id(owner))
        if other is None or (len(fact.name), fact.name) < (len(other[1].name), other[1].name):
            kept[id(owner)] = (owner, fact)
    by_name: dict[str, Fact] = {}
    for fact in sorted(fact for _, fact in kept.values()):
        by_name.setdefault(fact.name, fact)
    return list(by_name.values())


def _all_facts(modules: Iterable[tuple[str, ModuleType]]) -> Iterator[tuple[Any, Fact]]:
    for name, module in modules:
        if description := _description(module):
            yield module, Fact(name, "module", name, description, "")
        for short, value in _members(name, module):
            if inspect.isclass(value):
                yield from _class_facts(name, _dotted(name, short), value)
            elif callable(value) and (description := _description(value)):
                yield value, Fact(_dotted(name, short), "function", name, description, signature_of(value, short))


def _class_facts(module: str, dotted: str, owner: type) -> Iterator[tuple[Any, Fact]]:
    """The class and the methods that it defines itself, less those that repeat what a base class says of them."""
    if description := _description(owner):
        yield owner, Fact(dotted, "class", module, description, signature_of(owner, owner.__name__))
    for short, value in sorted(vars(owner).items()):
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if short.startswith(("_", "do_")) or not inspect.isroutine(function):
            continue
        description = _description(function)
        if description and not any(_description(vars(base).get(short)) == description for base in owner.__mro__[1:]):
            yield function, Fact(f"{dotted}.{short}", "method", module, description, signature_of(function, short))


def _members(name: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public names that the module itself offers: those of __all__, else those that were defined in it."""
    offered = getattr(module, "__all__", None)
    for short in sorted(vars(module) if offered is None else offered):
        value = getattr(module, short, None)
        if short.startswith("_") or inspect.ismodule(value) or value is None:
            continue
        if offered is not None or getattr(value, "__module__", None) == name:
            yield short, value


def _classes(modules: Iterable[tuple[str, ModuleType]]) -> Iterator[tuple[str, type]]:
    for name, module in modules:
        for short, value in _members(name, module):
            if inspect.isclass(value):
                yield _dotted(name, short), value


def _private_descriptions(modules: Iterable[tuple[str, ModuleType]]) -> Iterator[tuple[str, str]]:
    for name, module in modules:
        for short, value in sorted(vars(module).items()):
            if short.startswith("_") and inspect.isfunction(value) and (description := _description(value)):
                yield _dotted(name, short), description


def _description(owner: Any) -> str:
    """The first sentence of the object's own docstring; what an instance shows is its class's and does not count."""
    docstring = getattr(owner, "__doc__", None)
    if not isinstance(docstring, str) or not (
        inspect.isclass(owner) or inspect.isroutine(owner) or inspect.ismodule(owner)
    ):
        return ""
    sentence = first_sentence(docstring)
    return "" if sentence in EMPTY_DESCRIPTIONS else sentence


def _dotted(module: str, short: str) -> str:
    return short if module == "builtins" else f"{module}.{short}"

"""What can be asked: a topic is one thing to know, with one answer and many phrasings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from demo_model.data.facts import Fact
from demo_model.data.phrasings import BY_KIND, Phrasings
from demo_model.data.verbs import third_person

MAX_REVERSE_WORDS = 16


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing to know.

    kind: describe, signature, module, reverse, general or invented. subject: the name it is about. answer: the one
    right answer. phrasings: whole questions, not templates.
    """

    kind: str
    subject: str
    answer: str
    phrasings: Phrasings


def fact_topics(facts: Iterable[Fact]) -> list[Topic]:
    """The topics of all facts, sorted by kind and name. No question occurs in two of them."""
    facts = sorted(facts)
    topics = [_topic("describe", fact, fact.description, name=fact.name) for fact in facts]
    topics += [_topic("signature", fact, fact.signature, name=fact.name) for fact in facts if fact.signature]
    topics += _module_topics(facts)
    topics += _reverse_topics(facts)
    return sorted(topics, key=lambda topic: (topic.kind, topic.subject))


def name_phrasings(kind: str, name: str) -> Phrasings:
    """The questions of a kind about a dotted name, whether it exists or not."""
    return _filled(kind, name=name, short=name.rpartition(".")[2])


def _topic(kind: str, fact: Fact, answer: str, **slots: str) -> Topic:
    return Topic(kind, fact.name, answer, _filled(kind, **slots))


def _filled(kind: str, **slots: str) -> Phrasings:
    templates = BY_KIND[kind]
    return Phrasings(
        tuple(template.format(**slots) for template in templates.training),
        tuple(template.format(**slots) for template in templates.held_out),
    )


def _module_topics(facts: list[Fact]) -> list[Topic]:
    """Where a function or class is imported from, for short names that only one module has."""
    importable = [fact for fact in facts if fact.kind in ("function", "class") and fact.module != "builtins"]
    homes = Counter(fact.short_name for fact in importable)
    taken = {fact.name for fact in facts if fact.module == "builtins"} | {f.name for f in facts if f.kind == "module"}
    return [
        _topic("module", fact, f"It is in the module {fact.module}.", short=fact.short_name)
        for fact in importable
        if homes[fact.short_name] == 1 and fact.short_name not in taken
    ]


def _reverse_topics(facts: list[Fact]) -> list[Topic]:
    """Which function does something, where the description is a verb phrase that only one function of its owner has."""
    asked = [(fact, third_person(fact.description)) for fact in facts if fact.kind in ("function", "method")]
    asked = [(fact, does) for fact, does in asked if does and len(does.split()) <= MAX_REVERSE_WORDS]
    times = Counter((_owner(fact), does) for fact, does in asked)
    return [
        _topic("reverse", fact, f"{fact.name}", owner=_owner(fact), what=fact.kind, does=does)
        for fact, does in asked
        if times[_owner(fact), does] == 1
    ]


def _owner(fact: Fact) -> str:
    return fact.name.rpartition(".")[0] or "builtins"

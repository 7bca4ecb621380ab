"""Answers as JSON: of the keys that a schema or the question's kind asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from demo_model.chat import Turn
from demo_model.data.dataset import Dataset
from demo_model.data.facts import Fact
from demo_model.data.topics import Topic
from demo_model.data.variations import training_question

KEYS = ("name", "kind", "module", "description", "signature")
# What a question is about: the last key of the answer where nothing says which keys it must have.
_ASKED = {"describe": "description", "signature": "signature", "module": "module", "reverse": "name"}
KIND_WEIGHTS = {"describe": 4, "signature": 3, "module": 1, "reverse": 2}

# What schemas of others call the one thing that is asked for.
_OTHER_KEY, _OTHER_KEY_SHARE = "answer", 0.3

_PLAIN = ("Answer as JSON.", "Answer in JSON.", "Reply as JSON.", "Give me JSON.", "Return JSON.", "JSON, please.")
_WITH_KEYS = ("Answer as JSON with the keys {keys}.", "Return JSON with {keys}.", "As JSON with the keys {keys}.")
_WITH_SCHEMA = (
    "Answer as JSON of this schema: {schema}",
    "Return JSON of the schema {schema}",
    "JSON schema: {schema}",
)
HELD_OUT_PLAIN = "Please answer as JSON."
HELD_OUT_KEYS = "Please answer as JSON with the keys {keys}."
HELD_OUT_SCHEMA = "Please answer as JSON of this schema: {schema}"


@dataclass(frozen=True, slots=True)
class JsonQuestion:
    """A topic that is to be answered as JSON, and the right keys and values in their order."""

    topic: Topic
    values: Mapping[str, str]
    wish: str = ""
    begun: str = field(default="", kw_only=True)

    @property
    def answer(self) -> str:
        return json.dumps(self.values, ensure_ascii=False)


class JsonQuestions:
    """A source of questions to be answered as JSON; the same dataset and generator give the same."""

    def __init__(self, dataset: Dataset) -> None:
        self._facts = {fact.name: fact for fact in dataset.corpus.facts}
        self._topics = {kind: dataset.of_kind(kind) for kind in KIND_WEIGHTS}

    def turns(self, rng: Random) -> tuple[str, list[Turn]]:
        """A system prompt, or "", and a turn for training."""
        (kind,) = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))
        topic = rng.choice(self._topics[kind])
        question, way = training_question(topic, rng), rng.random()
        if way < 0.25:
            return "", [self._begun(topic, question, rng)]
        if way < 0.5:
            wish, values = rng.choice(_PLAIN), self.values(topic, default_keys(topic))
        else:
            values = self.values(topic, self._some_keys(topic, rng))
            wish = (
                with_keys(rng.choice(_WITH_KEYS), values)
                if way < 0.88
                else rng.choice(_WITH_SCHEMA).format(schema=_schema_text(values, rng))
            )
        answer = json.dumps(values, ensure_ascii=False)
        place = rng.random()
        if place < 0.2:
            return wish, [Turn(question, answer)]
        return "", [Turn(f"{wish} {question}" if place < 0.3 else f"{question} {wish}", answer)]

    def held_out(self, rng: Random, kind: str) -> tuple[str, dict[str, str]]:
        """A question in a phrasing and with a wish that were kept from training, and the right values."""
        topic = rng.choice([topic for topic in self._topics[kind] if topic.phrasings.held_out])
        way = rng.choice((HELD_OUT_PLAIN, HELD_OUT_KEYS, HELD_OUT_SCHEMA))
        values = self.values(topic, default_keys(topic) if way is HELD_OUT_PLAIN else self._some_keys(topic, rng))
        wish = (
            way
            if way is HELD_OUT_PLAIN
            else (with_keys(way, values) if way is HELD_OUT_KEYS else way.format(schema=json.dumps(schema_of(values))))
        )
        return f"{rng.choice(topic.phrasings.held_out)} {wish}", values

    def values(self, topic: Topic, keys: Sequence[str]) -> dict[str, str]:
        fact = self._facts[topic.subject]
        return {key: str(getattr(fact, key)) for key in keys}

    def _begun(self, topic: Topic, question: str, rng: Random) -> Turn:
        """As a grammar has it that the question knows nothing of: JSON has begun, and its last value is asked for."""
        asked = _ASKED[topic.kind]
        given = [key for key in self._some_keys(topic, rng) if key != asked] if asked != "name" else []
        values, key = self.values(topic, [*given, asked]), asked
        if rng.random() < _OTHER_KEY_SHARE:
            values, key = {_OTHER_KEY: values[asked]}, _OTHER_KEY
        text = json.dumps(values, ensure_ascii=False)
        cut = text.rindex(f'"{key}": "') + len(f'"{key}": "')
        return Turn(question, text[cut:], text[:cut])

    def _some_keys(self, topic: Topic, rng: Random) -> list[str]:
        """What is asked, mostly alone or with the name."""
        fact, asked = self._facts[topic.subject], _ASKED[topic.kind]
        others = [key for key in KEYS if key != asked and _has(fact, key)]
        kind = rng.random()
        if kind < 0.4 or not others:
            return [asked]
        if kind < 0.8:
            return list(dict.fromkeys(("name", asked)))
        keys = [asked, rng.choice(others)]
        rng.shuffle(keys)
        return keys


def default_keys(topic: Topic) -> tuple[str, ...]:
    asked = _ASKED[topic.kind]
    return ("name",) if asked == "name" else ("name", asked)


def schema_of(keys: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": {key: {"type": "string"} for key in keys}, "required": list(keys)}


def with_keys(template: str, keys: Mapping[str, Any]) -> str:
    first, last = list(keys)[:-1], list(keys)[-1]
    text = f"{', '.join(first)} and {last}" if first else last
    return template.replace("keys {keys}", f"key{'s' * bool(first)} {text}").replace("{keys}", text)


def _schema_text(keys: Mapping[str, Any], rng: Random) -> str:
    """As OpenAI's clients write it, or as Pydantic does."""
    schema = schema_of(keys)
    if rng.random() < 0.3:
        properties = {key: {"title": key.title(), "type": "string"} for key in keys}
        schema = {"properties": properties, "required": list(keys), "title": "Answer", "type": "object"}
    elif rng.random() < 0.3:
        schema["additionalProperties"] = False
    return json.dumps(schema)


def _has(fact: Fact, key: str) -> bool:
    return bool(getattr(fact, key))

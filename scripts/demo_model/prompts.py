"""The 200 fixed prompts: the same for every benchmark that asks whether answers are still right."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from demo_model.data.dataset import FIRST_NAME, Dataset
from demo_model.data.topics import Topic

# How many of each kind; every question but the first is in a phrasing that is kept from training.
COUNTS = {"describe": 100, "signature": 30, "module": 20, "reverse": 20, "invented": 20, "general": 10}
FIRST_QUESTION = f"What does {FIRST_NAME} do?"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question and the answer that is right."""

    kind: str
    subject: str
    question: str
    reference: str


def fixed_prompts(dataset: Dataset) -> list[Prompt]:
    """The same data give the same prompts. Fewer than 200 where the dataset is a small part of the library."""
    rng = Random("prompts")
    first = next(topic for topic in dataset.of_kind("describe") if topic.subject == FIRST_NAME)
    prompts = [Prompt("describe", first.subject, FIRST_QUESTION, first.answer)]
    for kind, count in COUNTS.items():
        topics = [topic for topic in _topics(dataset, kind, count, rng) if topic is not first]
        chosen = rng.sample(topics, min(count - (kind == first.kind), len(topics)))
        prompts += [held_out_prompt(topic, rng) for topic in chosen]
    return prompts


def held_out_prompt(topic: Topic, rng: Random) -> Prompt:
    return Prompt(topic.kind, topic.subject, rng.choice(topic.phrasings.held_out), topic.answer)


def held_out_prompts(dataset: Dataset, kind: str, count: int = 0) -> list[Prompt]:
    """Each topic of a kind in one phrasing that is kept from training; `count` draws so many of them, 0 takes all."""
    rng = Random(kind)
    topics = _topics(dataset, kind, count, rng)
    return [held_out_prompt(topic, rng) for topic in (rng.sample(topics, min(count, len(topics))) if count else topics)]


def _topics(dataset: Dataset, kind: str, count: int, rng: Random) -> list[Topic]:
    """The topics of a kind that have a phrasing to ask in; of invented names, `count` different ones are made."""
    if kind != "invented":
        return [topic for topic in dataset.of_kind(kind) if topic.phrasings.held_out]
    made: dict[str, Topic] = {}
    while len(made) < count:
        topic = dataset.invented.topic(rng, held_out=True)
        made.setdefault(topic.subject, topic)
    return list(made.values())

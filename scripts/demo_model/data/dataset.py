"""Everything that is asked: the corpus, its topics, the general turns, the source of invented names, the tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from demo_model.data.corpus import Corpus, read_corpus
from demo_model.data.invented import InventedNames
from demo_model.data.phrasings import Phrasings
from demo_model.data.topics import Topic, fact_topics
from demo_model.tokenizer import train_tokenizer

FIRST_NAME = "shutil.copytree"
VOCAB_SIZE = 4096
# Greetings, thanks, what the model is and what it can do.
GENERAL_TURNS = Path(__file__).with_name("general_turns.txt")
MIN_FOR_HELD_OUT = 5


@dataclass(frozen=True, slots=True)
class Dataset:
    corpus: Corpus
    topics: tuple[Topic, ...]
    invented: InventedNames
    tokenizer: Tokenizer

    @property
    def digest(self) -> str:
        """SHA-256 of all answers: the same digest, the same data."""
        text = "\n".join(f"{topic.kind}\t{topic.subject}\t{topic.answer}" for topic in self.topics)
        return hashlib.sha256(text.encode()).hexdigest()

    def of_kind(self, kind: str) -> list[Topic]:
        return [topic for topic in self.topics if topic.kind == kind]


def make_dataset(num_names: int = 0) -> Dataset:
    """The data of this interpreter; `num_names` keeps the topics of so many names, always the same ones, 0 all."""
    corpus = read_corpus()
    topics = fact_topics(corpus.facts)
    if num_names:
        names = [fact.name for fact in corpus.facts if fact.name != FIRST_NAME]
        kept = {FIRST_NAME, *Random(0).sample(names, min(num_names, len(names)) - 1)}
        topics = [topic for topic in topics if topic.subject in kept]
    topics += general_topics()
    return Dataset(corpus, tuple(topics), InventedNames(corpus), train_tokenizer(_texts(topics), VOCAB_SIZE))


def general_topics() -> list[Topic]:
    """The blocks of general_turns.txt. The last question of a block of five or more is kept from training."""
    return [_topic(block) for block in GENERAL_TURNS.read_text(encoding="utf-8").strip().split("\n\n")]


def _topic(block: str) -> Topic:
    *questions, answer = block.splitlines()
    kept = 1 if len(questions) >= MIN_FOR_HELD_OUT else 0
    training, held_out = questions[: len(questions) - kept], questions[len(questions) - kept :]
    return Topic("general", questions[0], answer.removeprefix("= "), Phrasings(tuple(training), tuple(held_out)))


def _texts(topics: Iterable[Topic]) -> Iterable[str]:
    """What the tokenizer learns from: each answer counts once, and so does one question of each topic."""
    for number, topic in enumerate(topics):
        yield topic.answer
        yield topic.phrasings.training[number % len(topic.phrasings.training)]

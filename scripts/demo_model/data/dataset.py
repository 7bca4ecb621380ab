"""Everything that is asked: the corpus, its topics, the general turns, the source of invented names, the tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from demo_model.data.corpus import Corpus, read_corpus
from demo_model.data.general import general_topics
from demo_model.data.invented import InventedNames
from demo_model.data.topics import Topic, fact_topics
from demo_model.tokenizer import train_tokenizer

FIRST_NAME = "shutil.copytree"


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
    return Dataset(corpus, tuple(topics), InventedNames(corpus), train_tokenizer(topics))

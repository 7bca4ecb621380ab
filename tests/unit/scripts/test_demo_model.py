"""The data of the demonstration model: what is trained, what is kept from training, and the fixed prompts."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import jinja2
import numpy as np
import pytest

from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from demo_model.chat import BEGIN, CHAT_TEMPLATE, END, Turn, segments
from demo_model.data import phrasings
from demo_model.data.corpus import read_corpus
from demo_model.data.dataset import FIRST_NAME, Dataset, make_dataset
from demo_model.data.docstrings import first_sentence
from demo_model.data.invented import REFUSAL, is_held_out
from demo_model.data.variations import training_question
from demo_model.data.verbs import third_person
from demo_model.prompts import COUNTS, fixed_prompts, held_out_prompts

pytestmark = pytest.mark.unit

KINDS = ("describe", "signature", "module", "reverse", "general")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def random(seed: int) -> Random:
    return Random(seed)


def plain(question: str) -> str:
    return question.lower().rstrip("?.!").replace("`", "")


def test_every_kind_has_enough_phrasings_and_keeps_some_from_training() -> None:
    for each in phrasings.BY_KIND.values():
        assert len(set(each.training)) >= 15
        assert len(each.held_out) >= 4
        assert not {plain(text) for text in each.training} & {plain(text) for text in each.held_out}


def test_no_training_question_is_a_held_out_one(dataset: Dataset, random: Random) -> None:
    for topic in random.sample(dataset.topics, 500):
        asked = {plain(training_question(topic, random)) for _ in range(40)}
        assert not asked & {plain(question) for question in topic.phrasings.held_out}


def test_a_question_has_one_answer(dataset: Dataset) -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for topic in dataset.topics:
        for question in topic.phrasings.all:
            answers[question].add(topic.answer)
    assert [question for question, found in answers.items() if len(found) > 1] == []


def test_a_name_is_a_fact_once(dataset: Dataset) -> None:
    names = Counter(fact.name for fact in dataset.corpus.facts)
    assert names.most_common(1)[0][1] == 1
    assert len(names) > 3000


def test_the_corpus_is_the_same_each_time(dataset: Dataset) -> None:
    assert read_corpus() == dataset.corpus


def test_nothing_in_the_corpus_depends_on_the_run(dataset: Dataset) -> None:
    for fact in dataset.corpus.facts:
        assert " at 0x" not in fact.description + fact.signature
        assert str(Path.home()) not in fact.description + fact.signature


def test_descriptions_are_sentences_of_the_docstrings(dataset: Dataset) -> None:
    facts = {fact.name: fact for fact in dataset.corpus.facts}
    copytree = facts["shutil.copytree"]
    assert (copytree.kind, copytree.module) == ("function", "shutil")
    assert copytree.description.startswith("Recursively copy a directory tree")
    assert facts["os.path.splitext"].signature == "splitext(p)"
    assert facts["str.split"].kind == "method"
    assert facts["json"].kind == "module"
    assert "posixpath.join" not in facts
    assert "this" not in facts


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Copy data. More of it.", "Copy data."),
        ("Split a name\n    in two\n\nReturns both.", "Split a name in two."),
        ("range(stop) -> range object\n\nReturn an object.", "Return an object."),
        ("f(x, /)\n--\n\nDo it, e.g. Twice.", "Do it, e.g. Twice."),
        ("Same as a.b.c: ", "Same as a.b.c."),
        (">>> 1 + 1\n2", ""),
        ("", ""),
        ("x" * 400 + " y", ""),
    ],
)
def test_the_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    ("description", "phrase"),
    [
        ("Split the extension from a pathname.", "splits the extension from a pathname"),
        ("Recursively copy a tree.", "recursively copies a tree"),
        ("Push an item.", "pushes an item"),
        ("Returns True.", "returns True"),
        ("The current time.", ""),
    ],
)
def test_an_imperative_becomes_a_verb_phrase(description: str, phrase: str) -> None:
    assert third_person(description) == phrase


def test_invented_names_do_not_exist_and_keep_to_their_side(dataset: Dataset, random: Random) -> None:
    real = {fact.name for fact in dataset.corpus.facts}
    for held_out in (False, True):
        for _ in range(300):
            topic = dataset.invented.topic(random, held_out)
            owner, _, short = topic.subject.rpartition(".")
            assert topic.answer == REFUSAL
            assert topic.subject not in real
            assert short not in dataset.corpus.attributes.get(owner or "builtins", ())
            assert is_held_out(topic.subject) == held_out


def test_a_conversation_is_what_the_chat_template_makes(dataset: Dataset, random: Random) -> None:
    topics = random.sample(dataset.topics, 3)
    turns = [Turn(random.choice(topic.phrasings.training), topic.answer) for topic in topics]
    messages = [{"role": "system", "content": "Be brief."}]
    for turn in turns:
        messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    template = jinja2.Template(CHAT_TEMPLATE)
    pieces = segments(turns, "Be brief.")
    assert "".join(text for text, _ in pieces) == template.render(messages=messages, bos_token=BEGIN, eos_token=END)
    whole = dataset.tokenizer.encode("".join(text for text, _ in pieces), add_special_tokens=False).ids
    apart = [dataset.tokenizer.encode(text, add_special_tokens=False).ids for text, _ in pieces]
    assert [token for ids in apart for token in ids] == whole


def test_the_tokenizer_gives_back_any_text(dataset: Dataset, rng: np.random.Generator) -> None:
    text = bytes(rng.integers(1, 128, 200, dtype=np.uint8)).decode() + "é 中 👋"
    ids = dataset.tokenizer.encode(text, add_special_tokens=False).ids
    assert dataset.tokenizer.decode(ids, skip_special_tokens=False) == text
    assert dataset.tokenizer.get_vocab_size() == 4096


def test_the_fixed_prompts_are_200_and_always_the_same(dataset: Dataset) -> None:
    prompts = fixed_prompts(dataset)
    assert prompts == fixed_prompts(dataset)
    assert Counter(prompt.kind for prompt in prompts) == COUNTS
    assert len({prompt.question for prompt in prompts}) == sum(COUNTS.values()) == 200
    assert prompts[0].question == f"What does {FIRST_NAME} do?"


def test_the_fixed_prompts_are_in_phrasings_that_are_kept_from_training(dataset: Dataset) -> None:
    trained = {question for topic in dataset.topics for question in topic.phrasings.training}
    assert [prompt.question for prompt in fixed_prompts(dataset) if prompt.question in trained] == [
        f"What does {FIRST_NAME} do?"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_topic_is_asked_once_in_the_evaluation(dataset: Dataset, kind: str) -> None:
    asked = [prompt.subject for prompt in held_out_prompts(dataset, kind)]
    assert sorted(asked) == sorted(topic.subject for topic in dataset.of_kind(kind) if topic.phrasings.held_out)

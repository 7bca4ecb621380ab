"""Small variations of a question, as people type them, so that the model does not hang on exact words."""

from __future__ import annotations

from random import Random

from demo_model.data.topics import Topic

OPENINGS = ("Hi, ", "Hello! ", "Hey, ", "Quick question: ", "In Python: ", "Ok. ", "And ", "Another question. ")
OPENING_SHARE, LOWER_CASE_SHARE, BARE_SHARE = 0.08, 0.08, 0.08


def training_question(topic: Topic, rng: Random) -> str:
    """One of the topic's training phrasings, now and then with an opening, in lower case, or without its end mark."""
    question = rng.choice(topic.phrasings.training)
    if topic.kind == "general":
        return question
    if rng.random() < LOWER_CASE_SHARE and not question.startswith(topic.subject):
        question = question[:1].lower() + question[1:]
    if rng.random() < BARE_SHARE:
        question = question.rstrip("?.")
    if rng.random() < OPENING_SHARE:
        question = rng.choice(OPENINGS) + question
    return question

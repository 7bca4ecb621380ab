"""The general turns: greetings, thanks, what the model is and what it can do."""

from __future__ import annotations

from pathlib import Path

from demo_model.data.phrasings import Phrasings
from demo_model.data.topics import Topic

FILE = Path(__file__).with_name("general_turns.txt")
MIN_FOR_HELD_OUT = 5


def general_topics() -> list[Topic]:
    """The blocks of general_turns.txt. The last question of a block of five or more is kept from training."""
    return [_topic(block) for block in FILE.read_text(encoding="utf-8").strip().split("\n\n")]


def _topic(block: str) -> Topic:
    *questions, answer = block.splitlines()
    kept = 1 if len(questions) >= MIN_FOR_HELD_OUT else 0
    training, held_out = questions[: len(questions) - kept], questions[len(questions) - kept :]
    return Topic("general", questions[0], answer.removeprefix("= "), Phrasings(tuple(training), tuple(held_out)))

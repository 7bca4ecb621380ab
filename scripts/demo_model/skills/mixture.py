"""Conversations of the second stage, for training."""

from __future__ import annotations

from random import Random

from demo_model.chat import Tool, Turn, segments
from demo_model.data.dataset import Dataset
from demo_model.data.invented import REFUSAL
from demo_model.data.topics import Topic, name_phrasings
from demo_model.data.variations import training_question
from demo_model.skills.calls import Calls
from demo_model.skills.json_answers import JsonQuestions
from demo_model.skills.tools import FIND_FUNCTION, GET_SIGNATURE, tools_with, tools_without

# Of the conversations of the second stage: the rest is of the first stage's kind, so that nothing is forgotten.
SKILL_SHARE = 0.5
_CALL, _PLAIN = 0.45, 0.15
_ANSWERED_SHARE, _SYSTEM_SHARE, _LATER_SHARE = 0.6, 0.1, 0.1
_SYSTEM_PROMPTS = ("You are a helpful assistant.", "Use the tools.", "Answer questions about Python.", "Be brief.")


class Skills:
    """A source of conversations with tools and with JSON; it has no state but the generator that it is given."""

    def __init__(self, dataset: Dataset) -> None:
        self.calls, self.json = Calls(dataset), JsonQuestions(dataset)
        self._invented = dataset.invented
        self._topics = {
            kind: dataset.of_kind(kind) for kind in ("describe", "module", "general", "signature", "reverse")
        }

    def conversation(self, rng: Random) -> list[tuple[str, bool]]:
        """The pieces of a conversation, as `segments` gives them."""
        kind = rng.random()
        if kind >= _CALL + _PLAIN:
            system, turns = self.json.turns(rng)
            return segments(turns, system)
        tools: list[Tool]
        if kind < _CALL:
            call = self.calls.draw(rng)
            tools = tools_with(call.tool, rng)
            turns = self.calls.turns(call, rng, answered=rng.random() < _ANSWERED_SHARE)
        else:
            topic, unfit = self._plain_topic(rng)
            tools = tools_without(unfit, rng)
            turns = [Turn(training_question(topic, rng), topic.answer)]
        if rng.random() < _LATER_SHARE:
            topic = rng.choice(self._topics["describe"])
            turns.insert(0, Turn(training_question(topic, rng), topic.answer))
        return segments(turns, rng.choice(_SYSTEM_PROMPTS) if rng.random() < _SYSTEM_SHARE else "", tools)

    def _plain_topic(self, rng: Random) -> tuple[Topic, Tool | None]:
        """What is answered in words although there are tools, and a tool that must not be there."""
        kind = rng.choice(("describe", "describe", "module", "general", "invented", "signature", "reverse"))
        if kind == "invented":
            name = self._invented.name(rng, held_out=False)
            return Topic(kind, name, REFUSAL, name_phrasings("describe", name)), None
        return rng.choice(self._topics[kind]), {"signature": GET_SIGNATURE, "reverse": FIND_FUNCTION}.get(kind)

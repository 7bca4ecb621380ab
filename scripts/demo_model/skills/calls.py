"""Questions that a tool answers, the right calls, and the right answers to what comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from demo_model.chat import Tool, Turn, call_text, result_text
from demo_model.data.dataset import Dataset
from demo_model.data.facts import Fact
from demo_model.data.phrasings import Phrasings
from demo_model.data.topics import Topic, name_phrasings
from demo_model.data.variations import training_question
from demo_model.data.verbs import third_person
from demo_model.skills.tools import FIND_FUNCTION, GET_SIGNATURE

NOTHING_FOUND = "The tool found nothing."
# What tools say when they have no answer.
_NOTHING = ("null", "None", "[]", "{}", "not found", '{"error": "not found"}', '{"result": null}')
# Questions that name no module.
ANYWHERE = (
    "Which function {does}?",
    "What {does}?",
    "What {does} in Python?",
    "Find the function that {does}.",
    "I need a function that {does}.",
    "Is there a function that {does}?",
    "Which function of the standard library {does}?",
    "Name a function that {does}.",
)
ANYWHERE_HELD_OUT = ("Which method or function {does}?", "I am looking for a function that {does}.")
# Most names and results are those of the library: what the model knows already, it is to say in another form. Some are
# made up, so that the question and the result are read.
_ANYWHERE_SHARE, _INVENTED_SHARE, _MADE_UP_SHARE, _NOTHING_SHARE = 0.5, 0.2, 0.35, 0.08
_PARAMETER = re.compile(r"[(,] ?\*{0,2}([a-z_]+)(?:=([^,()]+))?(?=[,)])")


@dataclass(frozen=True, slots=True)
class Call:
    """A question, the tool that answers it, and the arguments that are right. `true_result`: what the tool would say,
    "" where nobody knows."""

    topic: Topic
    tool: Tool
    arguments: Mapping[str, str]
    true_result: str = ""

    @property
    def name(self) -> str:
        return str(self.tool["function"]["name"])

    @property
    def text(self) -> str:
        return call_text(self.name, self.arguments)


class Calls:
    """A source of calls and results; the same dataset and generator give the same."""

    def __init__(self, dataset: Dataset) -> None:
        self._invented = dataset.invented
        facts = {fact.name: fact for fact in dataset.corpus.facts}
        pairs = [_find_calls(topic, facts[topic.subject]) for topic in dataset.of_kind("reverse")]
        self.find, self.find_anywhere = ([pair[index] for pair in pairs] for index in (0, 1))
        self.signature = [self.of_signature(topic) for topic in dataset.of_kind("signature")]
        found = [match for call in self.signature for match in _PARAMETER.findall(call.true_result)]
        self._parameters = sorted({name for name, _ in found} - {"self"})
        self._defaults = sorted({default for _, default in found if default})

    def draw(self, rng: Random) -> Call:
        """A call for training: of a name that does not exist as well, which is for the tool to say."""
        if rng.random() < 0.5:
            return rng.choice(self.find_anywhere if rng.random() < _ANYWHERE_SHARE else self.find)
        if rng.random() < _INVENTED_SHARE:
            name = self._invented.name(rng, held_out=False)
            return self.of_signature(Topic("signature", name, "", name_phrasings("signature", name)))
        return rng.choice(self.signature)

    @staticmethod
    def of_signature(topic: Topic) -> Call:
        """The call for a question about the signature of a name, which need not exist."""
        return Call(topic, GET_SIGNATURE, {"name": topic.subject}, topic.answer)

    def turns(self, call: Call, rng: Random, answered: bool) -> list[Turn]:
        """The question and the call; `answered`: and a result with what is made of it."""
        turns = [Turn(training_question(call.topic, rng), call.text)]
        return [*turns, self.answer(call, rng, held_out=False)] if answered else turns

    def answer(self, call: Call, rng: Random, held_out: bool) -> Turn:
        """A result of the call and the answer to it. Some results are made up, so that they must be read."""
        if rng.random() < _NOTHING_SHARE:
            return Turn(result_text(rng.choice(_NOTHING)), NOTHING_FOUND)
        result = call.true_result
        if not result or rng.random() < _MADE_UP_SHARE:
            name = self._invented.name(rng, held_out)
            result = name if call.tool is FIND_FUNCTION else self._signature(name.rpartition(".")[2], rng)
        return Turn(result_text(_spelled(result, call, rng)), answer_to(call, result))

    def _signature(self, name: str, rng: Random) -> str:
        parameters = rng.sample(self._parameters, rng.choice((0, 1, 1, 2, 2, 3, 4)))
        plain = rng.randint(0, len(parameters))
        texts = [*parameters[:plain], *(f"{each}={rng.choice(self._defaults)}" for each in parameters[plain:])]
        return f"{name}({', '.join(texts)})"


def answer_to(call: Call, result: str) -> str:
    """The right answer where `call` gave `result`."""
    return f"That is `{result}`." if call.tool is FIND_FUNCTION else f"Its signature is `{result}`."


def _spelled(result: str, call: Call, rng: Random) -> str:
    """The result in one of the forms in which programs give it: as it is, as JSON text, as a JSON object."""
    key = "name" if call.tool is FIND_FUNCTION else "signature"
    form = rng.choice(("text", "text", "string", "object", "object", "result"))
    values = {"text": result, "string": result, "object": {key: result}, "result": {"result": result}}
    return result if form == "text" else json.dumps(values[form], ensure_ascii=False)


def _find_calls(topic: Topic, fact: Fact) -> tuple[Call, Call]:
    """The description is that of the question, which names a module or class as well; and the same without one."""
    description = third_person(fact.description)
    anywhere = replace(topic, phrasings=_anywhere(description))
    return (
        Call(topic, FIND_FUNCTION, {"description": description}, topic.answer),
        Call(anywhere, FIND_FUNCTION, {"description": description}, topic.answer),
    )


def _anywhere(does: str) -> Phrasings:
    training, held_out = (tuple(text.format(does=does) for text in texts) for texts in (ANYWHERE, ANYWHERE_HELD_OUT))
    return Phrasings(training, held_out)

"""Conversations that were kept from training, by kind, with the answers that are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from demo_model.chat import Tool, Turn, as_messages, segments
from demo_model.data.dataset import Dataset
from demo_model.data.topics import Topic, name_phrasings
from demo_model.skills.calls import Call, Calls
from demo_model.skills.json_answers import KIND_WEIGHTS, JsonQuestions
from demo_model.skills.tools import TOOLS

KINDS = ("tool_signature", "tool_invented", "tool_find", "tool_find_anywhere", "tool_result", "tool_none", "json")


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation that waits for an answer, the tools that it has, and the text that is right. turns: the same for
    the training's own code, with the answer."""

    kind: str
    messages: Sequence[dict[str, Any]]
    tools: tuple[Tool, ...]
    reference: str
    turns: Sequence[Turn]

    def pieces(self) -> list[tuple[str, bool]]:
        """As `segments` gives them; the last answer alone is to be learned."""
        pieces = segments(self.turns, tools=self.tools)
        return [*((text, False) for text, _ in pieces[:-1]), pieces[-1]]

    def is_right(self, text: str) -> bool:
        """To the letter; JSON and calls as values."""
        return text == self.reference or _value(text) == _value(self.reference) is not None


def held_out(dataset: Dataset, count: int) -> list[Asked]:
    """`count` of each kind; the same dataset gives the same."""
    calls, questions = Calls(dataset), JsonQuestions(dataset)
    return [asked for kind in KINDS for asked in _of_kind(kind, dataset, calls, questions, count)]


def _of_kind(kind: str, dataset: Dataset, calls: Calls, questions: JsonQuestions, count: int) -> list[Asked]:
    rng = Random(kind)
    if kind == "json":
        kinds = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()), k=count)
        return [_single(kind, *_json(questions.held_out(rng, each)), ()) for each in kinds]
    if kind == "tool_none":
        topics = rng.sample(dataset.of_kind("describe"), min(count, len(dataset.of_kind("describe"))))
        return [_single(kind, rng.choice(each.phrasings.held_out), each.answer, TOOLS) for each in topics]
    if kind == "tool_invented":
        names = [dataset.invented.name(rng, held_out=True) for _ in range(count)]
        found = [calls.of_signature(Topic("signature", each, "", name_phrasings("signature", each))) for each in names]
    elif kind == "tool_result":
        return [_result(call, calls, rng) for call in _sample(calls.signature + calls.find, count, rng)]
    else:
        sources = {"tool_signature": calls.signature, "tool_find": calls.find}
        found = _sample(sources.get(kind, calls.find_anywhere), count, rng)
    return [_single(kind, _question(call, rng), call.text, TOOLS) for call in found]


def _result(call: Call, calls: Calls, rng: Random) -> Asked:
    question, answer = _question(call, rng), calls.answer(call, rng, held_out=True)
    call_id = "call_1"
    function = {"name": call.name, "arguments": dict(call.arguments)}
    content = answer.question.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
    messages: list[dict[str, Any]] = [
        *as_messages(question),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "name": call.name, "content": content},
    ]
    return Asked("tool_result", messages, TOOLS, answer.answer, (Turn(question, call.text), answer))


def _single(kind: str, question: str, reference: str, tools: tuple[Tool, ...]) -> Asked:
    return Asked(kind, as_messages(question), tools, reference, (Turn(question, reference),))


def _json(asked: tuple[str, dict[str, str]]) -> tuple[str, str]:
    return asked[0], json.dumps(asked[1], ensure_ascii=False)


def _question(call: Call, rng: Random) -> str:
    return rng.choice(call.topic.phrasings.held_out)


def _sample(calls: list[Call], count: int, rng: Random) -> list[Call]:
    return rng.sample(calls, min(count, len(calls)))


def _value(text: str) -> Any:
    """What a call or JSON says; None for other text."""
    try:
        return json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
    except ValueError:
        return None

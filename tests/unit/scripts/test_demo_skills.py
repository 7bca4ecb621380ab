"""What the demonstration model's second stage teaches: calls, their results, and JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from random import Random

import jsonschema
import pytest

from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from demo_model.chat import BEGIN, CHAT_TEMPLATE, END, as_messages
from demo_model.data.dataset import Dataset, make_dataset
from demo_model.skills import calls as calls_module
from demo_model.skills import json_answers
from demo_model.skills.calls import NOTHING_FOUND, Calls, answer_to
from demo_model.skills.held_out import KINDS, Asked, held_out
from demo_model.skills.json_answers import JsonQuestions
from demo_model.skills.mixture import Skills
from demo_model.skills.tools import FIND_FUNCTION, GET_SIGNATURE, TOOLS, tools_with, tools_without

from inflight.runtime.text.chat.chat_template import ChatTemplate
from inflight.runtime.text.parsers.tools.registry import format_of_template

pytestmark = pytest.mark.unit

TEMPLATE = ChatTemplate({"default": CHAT_TEMPLATE})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset(300)


@pytest.fixture(scope="module")
def asked(dataset: Dataset) -> list[Asked]:
    return held_out(dataset, 8)


@pytest.fixture
def random(seed: int) -> Random:
    return Random(seed)


def test_the_training_reads_what_the_template_makes(asked: list[Asked]) -> None:
    variables = {"bos_token": BEGIN, "eos_token": END}
    for each in asked:
        pieces = each.pieces()
        prompt = TEMPLATE.render(
            each.messages, [dict(tool) for tool in each.tools] or None, variables=variables, adapt_tools=True
        )
        assert "".join(text for text, _ in pieces[:-1]) == prompt
        assert pieces[-1] == (f"{each.reference}{END}", True) and not any(learned for _, learned in pieces[:-1])


def test_a_system_message_stands_before_the_tools() -> None:
    messages = as_messages("Hello", "Be brief.")
    text = TEMPLATE.render(messages, [dict(tool) for tool in TOOLS], variables={"bos_token": BEGIN, "eos_token": END})
    assert text.startswith(
        f"{BEGIN}<|system|>Be brief.\nTools: find_function(description), get_signature(name){END}<|user|>Hello"
    )


def test_calls_have_the_form_of_hermes() -> None:
    assert format_of_template(CHAT_TEMPLATE).name == "hermes"


def test_every_kind_is_asked_for_once_and_always_the_same(dataset: Dataset, asked: list[Asked]) -> None:
    assert Counter(each.kind for each in asked) == dict.fromkeys(KINDS, 8)
    assert held_out(dataset, 8) == asked


def test_right_is_what_says_the_same(asked: list[Asked]) -> None:
    for each in asked:
        assert each.is_right(each.reference) and not each.is_right(each.reference[:-1]) and not each.is_right("")
        if each.kind == "json":
            value = json.loads(each.reference)
            assert each.is_right(json.dumps(dict(reversed(value.items())), indent=1))
            assert not each.is_right(json.dumps(value | {"more": 1})) and not each.is_right(json.dumps(list(value)))


def test_arguments_are_of_their_tools_schema_and_words_of_the_question(dataset: Dataset, random: Random) -> None:
    calls = Calls(dataset)
    for _ in range(200):
        call = calls.draw(random)
        jsonschema.validate(call.arguments, call.tool["function"]["parameters"])
        for question in call.topic.phrasings.all:
            assert all(value in question or value == "builtins" for value in call.arguments.values())


def test_what_is_held_out_is_not_trained(dataset: Dataset) -> None:
    assert not set(calls_module.ANYWHERE) & set(calls_module.ANYWHERE_HELD_OUT)
    trained = (json_answers._PLAIN, json_answers._WITH_KEYS, json_answers._WITH_SCHEMA)
    kept = (json_answers.HELD_OUT_PLAIN, json_answers.HELD_OUT_KEYS, json_answers.HELD_OUT_SCHEMA)
    for texts, held in zip(trained, kept, strict=True):
        assert held not in texts


def test_results_are_answered_with_what_they_say(dataset: Dataset, random: Random) -> None:
    calls = Calls(dataset)
    for call in (*calls.find[:20], *calls.signature[:20]):
        turn = calls.answer(call, random, held_out=False)
        told = turn.question.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
        said = turn.answer.partition("`")[2].rpartition("`")[0]
        assert turn.answer == (answer_to(call, said) if said else NOTHING_FOUND)
        assert said in told or json.dumps(said) in told


def test_tools_that_must_not_be_there_are_not(random: Random) -> None:
    for unfit in (*TOOLS, None):
        for _ in range(30):
            assert (chosen := tools_without(unfit, random)) and unfit not in chosen
    assert all(tool in tools_with(tool, random) for tool in TOOLS for _ in range(30))


def test_json_has_the_keys_of_its_schema_in_their_order(dataset: Dataset, random: Random) -> None:
    questions = JsonQuestions(dataset)
    facts = {fact.name: fact for fact in dataset.corpus.facts}
    for _ in range(200):
        _, (turn,) = questions.turns(random)
        values = json.loads(turn.begun + turn.answer)
        if '"properties": ' in turn.question:
            schema = json.loads(turn.question[turn.question.index("{") : turn.question.rindex("}") + 1])
            assert list(schema["properties"]) == list(values) and jsonschema.validate(values, schema) is None
        if "name" in values:
            assert all(getattr(facts[values["name"]], key) == value for key, value in values.items())


def test_no_call_is_taught_without_its_tool(dataset: Dataset, random: Random) -> None:
    skills = Skills(dataset)
    for _ in range(300):
        pieces = skills.conversation(random)
        prompt = pieces[1][0] if len(pieces) > 1 else ""
        for text, learned in pieces:
            for tool in (FIND_FUNCTION, GET_SIGNATURE):
                name = tool["function"]["name"]
                if learned and f'"name": "{name}"' in text:
                    assert f"{name}(" in prompt and "Tools: " in prompt


def test_a_call_knows_its_text(dataset: Dataset) -> None:
    call = Calls(dataset).signature[0]
    assert json.loads(call.text.splitlines()[1]) == {"name": "get_signature", "arguments": {"name": call.topic.subject}}
    assert replace(call, arguments={"name": 'a"b'}).text.count('\\"') == 1

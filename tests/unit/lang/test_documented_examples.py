"""Programs of the kinds that SGLang's documentation shows, over an engine that answers anything: they run as they
stand, and what they ask for holds whatever a model says."""

from __future__ import annotations

import asyncio
import json
import math
import re
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel

import inflight.lang as sgl
from inflight.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_STR

pytestmark = pytest.mark.unit

ADDRESS = r"((25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}(25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
RECORD = (
    r"""\{\n"""
    + r"""    "name": "[a-z ]{1,16}",\n"""
    + r"""    "kind": "(fox|dog|bear of the north)",\n"""
    + r"""    "tail": \{\n"""
    + r"""        "length": [0-9]{1,2}\.[0-9]{0,2}\n"""
    + r"""    \}\n"""
    + r"""\}"""
)


@sgl.function
def text_qa(s: Any, question: str) -> None:
    s += "Q: " + question + "\n"
    s += "A:" + sgl.gen("answer", max_tokens=16, stop="\n")


def test_an_expression_and_a_record_of_expressions(runtime: sgl.Runtime) -> None:
    @sgl.function
    def regular_expression_gen(s: Any) -> None:
        s += "Q: Which address has the server?\nA: " + sgl.gen("answer", temperature=0, regex=ADDRESS)

    @sgl.function
    def character_gen(s: Any, name: str) -> None:
        s += name + " is an animal. Fill in what is known of it.\n"
        s += "The expression is:\n" + RECORD + "\n"
        s += sgl.gen("json_output", max_tokens=512, regex=RECORD)

    assert re.fullmatch(ADDRESS, regular_expression_gen.run()["answer"])
    assert re.fullmatch(RECORD, character_gen.run(name="Reynard")["json_output"])


def test_a_record_of_a_pydantic_model(runtime: sgl.Runtime) -> None:
    class Weapon(str, Enum):
        sword = "sword"
        bow = "bow"

    class Wizard(BaseModel):
        name: str
        age: int
        weapon: Weapon

    @sgl.function
    def wizard_gen(s: Any) -> None:
        s += "A wizard in JSON:\n" + sgl.gen("it", max_tokens=900, json_schema=json.dumps(Wizard.model_json_schema()))

    state = wizard_gen.run()
    if state.get_meta_info("it")["finish_reason"]["type"] == "stop":
        Wizard.model_validate_json(state["it"])


def test_json_that_the_program_writes_around_its_values(runtime: sgl.Runtime) -> None:
    @sgl.function
    def decode_json(s: Any) -> None:
        s += "The city in JSON.\n"
        with s.var_scope("json_output"):
            s += '{\n  "name": ' + sgl.gen(regex=r'"[a-z]{1,9}"') + ",\n"
            s += '  "people": ' + sgl.gen(regex=r"[1-9][0-9]{0,6}", stop=[" ", "\n"]) + ",\n"
            s += '  "capital": ' + sgl.gen(dtype=bool) + "\n}"

    text = decode_json.run(temperature=0.0)["json_output"]
    value = json.loads(text.replace("True", "true").replace("False", "false"))
    assert isinstance(value["people"], int) and isinstance(value["capital"], bool)

    @sgl.function
    def typed(s: Any) -> None:
        s += "one " + sgl.gen("int", regex=REGEX_INT, max_tokens=8) + " two " + sgl.gen_int("again", max_tokens=8)
        s += sgl.gen("bool", regex=REGEX_BOOL) + sgl.gen("float", regex=REGEX_FLOAT, max_tokens=9)
        s += sgl.gen("str", regex=REGEX_STR, max_tokens=60)

    state = typed.run()
    assert state["bool"] in ("True", "False") and int(state["int"]) == int(state["int"])
    assert re.fullmatch(r"[+-]?[0-9]+", state["again"]) and state["str"].startswith('"')


def test_a_variable_goes_into_what_follows(runtime: sgl.Runtime) -> None:
    @sgl.function
    def expert_answer(s: Any, question: str) -> None:
        s += "Question: " + question + "\n"
        s += "A good person to ask is" + sgl.gen("expert", max_tokens=8, stop=[".", "\n"]) + ".\n"
        s += "For example," + s["expert"] + " would say " + sgl.gen("answer", max_tokens=8, stop=".") + "."

    state = expert_answer.run(question="Where is the den?", temperature=0.1)
    assert state.text().count(state["expert"]) >= 2 and state.text().endswith(state["answer"] + ".")


def test_thoughts_and_actions_in_turn(runtime: sgl.Runtime) -> None:
    @sgl.function
    def react(s: Any, question: str) -> None:
        s += "Question: " + question + "\n"
        for i in range(1, 4):
            s += f"Thought {i}:" + sgl.gen(max_tokens=8, stop=[".", "\n"]) + ".\n"
            s += f"Action {i}: " + sgl.select(f"action_{i}", ["Search", "Finish"])
            if s[f"action_{i}"] == "Finish":
                s += " [" + sgl.gen("answer", max_tokens=8, stop="]") + "].\n"
                break
            s += " [" + sgl.gen(max_tokens=8, stop="]") + "].\n"

    state = react.run(question="Where is the den?", temperature=0.1)
    actions = [state[name] for name in ("action_1", "action_2", "action_3") if name in state]
    assert actions and set(actions[:-1]) <= {"Search"} and ("answer" in state) is (actions[-1] == "Finish")
    info = state.get_meta_info("action_1")
    assert len(info["normalized_prompt_logprobs"]) == 2 and len(info["input_token_logprobs"]) == 2


def test_texts_are_computed_apart_and_joined(runtime: sgl.Runtime) -> None:
    @sgl.function
    def parallel_encoding(s: Any, contexts: list[str]) -> None:
        s += "Memorize these.\n"
        forks = s.fork(len(contexts))
        forks += lambda i: f"Statement {i}: {contexts[i]}\n"
        forks.join(mode="concate_and_append")
        s += "Now answer:" + sgl.gen("answer", max_tokens=8)

    text = parallel_encoding.run(contexts=["a is b", "c is d", "e is f"]).text()
    assert text.startswith(
        "Memorize these.\nStatement 0: a is b\nStatement 1: c is d\nStatement 2: e is f\nNow answer:"
    )

    @sgl.function
    def parallel_decoding(s: Any, count: int) -> None:
        for i in range(1, 1 + count):
            s += f"{i}." + sgl.gen(max_tokens=4, stop=[".", "\n"]) + ".\n"
        forks = s.fork(count)
        for i in range(count):
            forks[i] += f"Tip {i + 1}:"
            forks[i] += sgl.gen("detailed_tip", 8, stop=["\n\n"])
        forks.join()
        for i in range(count):
            s += f"Tip {i + 1}:" + forks[i]["detailed_tip"] + "\n"
        s += "In summary," + sgl.gen("summary", max_tokens=8)

    state = parallel_decoding.run(count=3, temperature=0.3)
    assert len(state["detailed_tip"]) == 3 and state.text().endswith("In summary," + state["summary"])


def test_samples_and_their_probabilities(runtime: sgl.Runtime) -> None:
    @sgl.function
    def parallel_sample(s: Any, question: str, n: int) -> None:
        s += "Question: " + question + "\n"
        forks = s.fork(n)
        forks += "Reasoning:" + sgl.gen("reasoning", max_tokens=8, stop="\n") + "\n"
        forks += "Answer:" + sgl.gen("answer", max_tokens=8, stop="\n", return_logprob=True, top_logprobs_num=2)
        forks.join()
        margins = []
        for fork in forks:
            for top in fork.get_meta_info("answer")["output_top_logprobs"]:
                margins.append(math.exp(top[0][0]) - math.exp(top[1][0]))
        s["margin"] = sum(margins) / max(1, len(margins))

    state = parallel_sample.run(question="1 + 1?", n=5, temperature=1.0)
    assert len(state["answer"]) == 5 and 0 <= state["margin"] <= 1


def test_a_batch_and_a_stream(runtime: sgl.Runtime) -> None:
    questions = [{"question": f"What is {number}?"} for number in range(3)]
    states = text_qa.run_batch(questions, progress_bar=True, temperature=0)
    for asked, state in zip(questions, states, strict=True):
        assert state.text() == f"Q: {asked['question']}\nA:{state['answer']}"
    stream = text_qa.run(question="What is 0?", temperature=0, stream=True)
    assert "".join(stream.text_iter()) == states[0].text()

    async def pieces() -> list[tuple[str, Any]]:
        state = text_qa.run(question="What is 1?", temperature=0, stream=True)
        return [each async for each in state.text_async_iter("answer", return_meta_data=True)]

    assert "".join(text for text, _ in asyncio.run(pieces())) == states[1]["answer"]


def test_roles_as_functions_scopes_and_marks(runtime: sgl.Runtime) -> None:
    @sgl.function
    def chat_example(s: Any) -> None:
        s += sgl.system("You are a fox.")
        with s.user():
            s += "Question: Where is the den?"
        s += sgl.assistant_begin()
        s += "Answer: " + sgl.gen("answer", max_tokens=10, stop="\n")
        s += sgl.assistant_end()

    messages = chat_example.run().messages()
    assert [each["role"] for each in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"] == "Question: Where is the den?" and messages[2]["content"].startswith("Answer:")

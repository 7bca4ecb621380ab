"""Programs of the kinds in SGLang's examples/frontend_language and its tests of the frontend: decoding by hand from
log probabilities, several answers at once, answers of a least length, and judging by scores."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

import inflight.lang as sgl

pytestmark = pytest.mark.unit


def test_paths_from_the_likeliest_first_tokens(runtime: sgl.Runtime) -> None:
    """Wang and Zhou 2024, "Chain-of-Thought Reasoning Without Prompting"."""

    @sgl.function
    def cot_decoding(s: Any, question: str, get_top_k: int) -> None:
        s += "Question: " + question + "\nAnswer:"
        step_0 = s.fork(1)[0]
        forks, answer_forks = s.fork(get_top_k), s.fork(get_top_k)
        asked: dict[str, Any] = {"return_logprob": True, "return_text_in_logprobs": True}
        step_0 += sgl.gen("get_top_k", max_tokens=0, top_logprobs_num=get_top_k, **asked)
        first = step_0.get_meta_info("get_top_k")["output_top_logprobs"][0]
        assert len({token_id for _, token_id, _ in first}) == get_top_k
        deltas = []
        for path, (fork, (_, _, text)) in enumerate(zip(forks, first, strict=True)):
            fork += text
            fork += sgl.gen("answer", temperature=0, max_tokens=6, top_logprobs_num=2, **asked)
            tops = fork.get_meta_info("answer")["output_top_logprobs"]
            deltas.append(sum(math.exp(one[0]) - math.exp(two[0]) for one, two in tops) / max(1, len(tops)))
            answer_forks[path] += text + fork["answer"] + "\nSo the answer is"
            answer_forks[path] += sgl.gen("answer_span", temperature=0, max_tokens=4, top_logprobs_num=2, **asked)
            assert str(answer_forks[path])[len("ProgramState(") : -1] == answer_forks[path].text()
        s["deltas"] = deltas

    state = cot_decoding.run(question="How many eggs?", get_top_k=4)
    assert len(state["deltas"]) == 4 and all(0 <= each <= 1 for each in state["deltas"])


def test_several_answers_and_one_that_goes_on(runtime: sgl.Runtime) -> None:
    @sgl.function
    def multi_turn_question(s: Any, question_1: str, question_2: str) -> None:
        s += sgl.system("You are a helpful assistant.")
        s += sgl.user(question_1)
        s += sgl.assistant(sgl.gen("answer_1", max_tokens=8, n=2))
        s += sgl.user(question_2)
        s += sgl.assistant(sgl.gen("answer_2", max_tokens=8))

    rows = [{"question_1": f"What is {number}?", "question_2": "And then?"} for number in range(2)]
    for state in (multi_turn_question.run(**rows[0]), *multi_turn_question.run_batch(rows)):
        assert isinstance(state["answer_1"], list) and len(state["answer_1"]) == 2
        assert isinstance(state["answer_2"], str)
        assert [each["role"] for each in state.messages()] == ["system", "user", "assistant", "user", "assistant"]


def test_an_answer_of_a_least_length(runtime: sgl.Runtime) -> None:
    @sgl.function
    def answers(s: Any) -> None:
        s += sgl.user("What is the capital?")
        s += sgl.assistant(sgl.gen("long", min_tokens=24, max_tokens=32))
        s += sgl.user("Again?") + sgl.assistant(sgl.gen("short", max_tokens=32))

    counts = [answers.run().get_meta_info("long")["completion_tokens"] for _ in range(6)]
    assert all(24 <= count <= 32 for count in counts)


def test_an_expression_of_letters_that_are_not_latin(runtime: sgl.Runtime) -> None:
    expression = r'\{\n  "姓名": "[^"]{1,8}",\n  "性别": "(男|女)",\n  "外号": \[("[^"]{1,6}"){1,2}\]\n\}'

    @sgl.function
    def character_gen(s: Any, name: str) -> None:
        s += name + "的卡片。\n" + sgl.gen("json_output", max_tokens=256, regex=expression)

    state = character_gen.run("东邪")
    assert re.fullmatch(expression, state["json_output"])


def test_the_likeliest_ending_of_each_of_a_batch(runtime: sgl.Runtime, rng: np.random.Generator) -> None:
    @sgl.function
    def hellaswag(s: Any, shots: str, question: str, choices: list[str]) -> None:
        s += shots + question
        s += sgl.select("answer", choices=choices)

    shots = "Finish the sentence.\n" + "".join(f"{place}: the fox {place}\n" for place in range(8))
    rows = [
        {"question": f"{number}: the", "choices": [f" fox {each}" for each in rng.integers(0, 10**6, 3)]}
        for number in range(5)
    ]
    states = hellaswag.bind(shots=shots).run_batch(rows, temperature=0, num_threads=4)
    for row, state in zip(rows, states, strict=True):
        info = state.get_meta_info("answer")
        best = int(np.argmax(info["normalized_prompt_logprobs"]))
        assert state["answer"] == row["choices"][best] and state.text().endswith(row["question"] + state["answer"])


def test_a_record_is_extracted_from_each_text(runtime: sgl.Runtime) -> None:
    """Its keys are written by the program, its values by the model, each of its own form."""

    @sgl.function
    def extract_entity(s: Any, text: str) -> None:
        s += sgl.user("Name the animal and what it does as JSON.\n" + text)
        s += sgl.assistant_begin()
        with s.var_scope("entity"):
            s += '{"animal": "' + sgl.gen("animal", max_tokens=8, regex="[a-z]{1,8}") + '", "does": "'
            s += sgl.gen("does", choices=["runs", "sleeps"]) + '", "times": ' + sgl.gen_int("times", max_tokens=4) + "}"
        s += sgl.assistant_end()

    texts = ["The fox runs twice.", "The bear of the north sleeps."]
    for text, state in zip(texts, extract_entity.run_batch([[text] for text in texts]), strict=True):
        animal, does, times = (state[name] for name in ("animal", "does", "times"))
        assert state["entity"] == f'{{"animal": "{animal}", "does": "{does}", "times": {times}}}'
        assert state.messages() == [
            {"role": "user", "content": "Name the animal and what it does as JSON.\n" + text},
            {"role": "assistant", "content": state["entity"]},
        ]

"""Programs over the demonstration model: their tokens and scores are those of transformers and of LLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import inflight.lang as sgl
from inflight.runtime import LLM, SamplingParams
from tests.engines.demo_engine import DEMO_MODEL, random_questions
from tests.models.tiny_tokenizers import random_text

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def engine(demo_engine: Path) -> Path:
    return demo_engine


@pytest.fixture(scope="module")
def runtime(engine: Path) -> Iterator[sgl.Runtime]:
    with sgl.Runtime(engine, max_total_tokens=8192) as runtime:
        yield runtime


@sgl.function
def chooses(s: Any, text: str, choices: list[str], method: Any) -> None:
    s += text
    s += sgl.select("choice", choices=choices, choices_method=method)


def scores(text: str, choices: list[str]) -> list[list[float]]:
    """By transformers: of each whole option, the log-softmax of its tokens behind what all of them have in common."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    prompts = [tokenizer(text + choice)["input_ids"] for choice in choices]
    before = tokenizer(text)["input_ids"]
    columns = enumerate(zip(before, *prompts, strict=False))
    start = next((place for place, column in columns if len(set(column)) > 1), min(map(len, [before, *prompts])))
    found = []
    for prompt in prompts:
        with torch.no_grad():
            rows = torch.log_softmax(model(torch.tensor([prompt])).logits[0], dim=-1)
        found.append([float(rows[place - 1, prompt[place]]) for place in range(max(start, 1), len(prompt))])
    return found


@pytest.mark.parametrize("round", range(2))
def test_an_option_is_scored_as_a_whole(runtime: sgl.Runtime, rng: np.random.Generator, round: int) -> None:
    """Also where it changes the last token of the text, and where a long prefix is shared."""
    text = " ".join(random_text(rng) for _ in range(int(rng.integers(1, 8)))) + str(rng.choice(["", " ", "wor"]))
    choices = [random_text(rng) or "x" for _ in range(4)] + ["ds", " calculator", "search engine"]
    expected = scores(text, choices)
    state = chooses.run(text, choices, sgl.token_length_normalized, backend=runtime)
    info = state.get_meta_info("choice")
    means = [float(np.mean(each)) for each in expected]
    for found, wanted in zip(info["input_token_logprobs"], expected, strict=True):
        np.testing.assert_allclose([token[0] for token in found], wanted, atol=1e-4, rtol=0)
    np.testing.assert_allclose(info["normalized_prompt_logprobs"], means, atol=1e-4, rtol=0)
    assert state["choice"] == choices[int(np.argmax(means))] and state.text() == text + state["choice"]


def test_the_other_rules_have_the_scores_that_they_need(runtime: sgl.Runtime, rng: np.random.Generator) -> None:
    text, choices = random_text(rng) + "\n", ["Return the name.", "Return", "import os"]
    expected = scores(text, choices)
    greedy = chooses.run(text, choices, sgl.greedy_token_selection, backend=runtime).get_meta_info("choice")
    for found, wanted in zip(greedy["greedy_logprob_matrix"], expected, strict=True):
        np.testing.assert_allclose(found[: len(wanted)], wanted, atol=1e-4, rtol=0)
    state = chooses.run(text, choices, sgl.unconditional_likelihood_normalized, backend=runtime)
    info = state.get_meta_info("choice")
    for tokens, alone in zip(info["input_token_logprobs"], info["unconditional_token_logprobs"], strict=True):
        assert [token[1] for token in alone] == [token[1] for token in tokens] and alone[0][0] is None
        assert all(token[0] < 0 for token in alone[1:])


def test_a_text_goes_on_as_llm_generates_from_the_whole_of_it(
    engine: Path, runtime: sgl.Runtime, rng: np.random.Generator
) -> None:
    @sgl.function
    def program(s: Any, pieces: list[str]) -> None:
        for index, piece in enumerate(pieces):
            s += piece + sgl.gen(f"part {index}", max_tokens=12, stop="\n\n")

    pieces = [random_text(rng) for _ in range(3)]
    state = program.run(pieces, temperature=0, backend=runtime)
    text = ""
    with LLM(engine) as llm:
        for index, piece in enumerate(pieces):
            text += piece
            (output,) = llm.generate(text, SamplingParams(temperature=0, max_tokens=12, stop=["\n\n"]))
            assert state[f"part {index}"] == output.outputs[0].text
            text += output.outputs[0].text
    assert state.text() == text


def test_turns_are_those_of_llm_chat(engine: Path, runtime: sgl.Runtime, rng: np.random.Generator) -> None:
    @sgl.function
    def program(s: Any, questions: list[str]) -> None:
        for index, question in enumerate(questions):
            s += sgl.user(question)
            s += sgl.assistant(sgl.gen(f"answer {index}", max_tokens=128))

    rows = random_questions(rng, 3)
    state = program.run([question for question, _ in rows], temperature=0, backend=runtime)
    assert state["answer 0"] == rows[0][1], "what the model was taught"
    messages: list[dict[str, str]] = []
    with LLM(engine) as llm:
        for index, (question, _) in enumerate(rows):
            messages.append({"role": "user", "content": question})
            (output,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=128))
            assert output.outputs[0].text == state[f"answer {index}"]
            messages.append({"role": "assistant", "content": output.outputs[0].text})
        assert state.messages() == messages
        assert state.text() == llm.tokenizer.render_chat(messages, add_generation_prompt=False)


def test_the_offline_engine_answers_a_chat_by_its_own_tokenizer(engine: Path, rng: np.random.Generator) -> None:
    ((question, answer),) = random_questions(rng, 1)
    with sgl.Engine(model_path=str(engine), max_total_tokens=2048) as llm:
        tokenizer = llm.tokenizer_manager.tokenizer
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        found = llm.generate(input_ids=ids, sampling_params={"temperature": 0, "max_new_tokens": 128})
        assert found["text"] == answer and found["meta_info"]["finish_reason"]["type"] == "stop"

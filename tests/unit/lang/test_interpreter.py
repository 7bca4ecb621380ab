"""How programs run, over a runtime whose engine answers anything (the null target)."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import numpy as np
import pytest

import inflight.lang as sgl
from inflight.errors import InflightError, RequestError
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit


@pytest.fixture
def gen_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 30))


def test_what_is_appended_is_in_the_text_in_its_order(runtime: sgl.Runtime, gen_seed: int) -> None:
    @sgl.function
    def program(s: Any, word: str) -> str:
        """Says a word."""
        s += "one " + sgl.gen("first", max_tokens=5, seed=gen_seed) + " two "
        with s.var_scope("scope"):
            s += word
            s += sgl.gen(max_tokens=3)
        s["own"] = 7
        return str(s["first"])

    state = program.run(word="three")
    assert state.text() == "one " + state["first"] + " two " + state["scope"]
    assert state["scope"].startswith("three") and state["own"] == 7 and state.ret_value == state["first"]
    assert "first" in state and "second" not in state and state.error() is None
    with pytest.raises(KeyError, match="second"):
        state["second"]
    assert program.__doc__ == "Says a word." and repr(state) == f"ProgramState({state.text()})"
    assert program("three").text().startswith("one ") and program.bind(word="four").run().text().count("four") == 1


def test_options_of_the_run_hold_where_gen_gives_none(runtime: sgl.Runtime) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.gen("short", max_tokens=3, ignore_eos=True) + "." + sgl.gen("long")

    state = program.run(max_new_tokens=9, temperature=0)
    lengths = [state.get_meta_info(name)["completion_tokens"] for name in ("short", "long")]
    assert lengths == [3, 9]
    assert state.get_meta_info("long")["finish_reason"] == {"type": "length", "length": 9}
    assert program.run().get_meta_info("long")["completion_tokens"] == 128


@pytest.mark.parametrize(
    ("options", "expression"),
    [
        ({"dtype": int}, r"[-+]?\d+"),
        ({"dtype": "float"}, r"[-+]?\d*\.?\d+"),
        ({"dtype": bool}, "True|False"),
        ({"dtype": str}, '"[^"]*"'),
        ({"regex": "[a-c]{2,6}"}, "[a-c]{2,6}"),
        ({"json_schema": '{"enum": ["left", "right"]}'}, '"left"|"right"'),
    ],
)
def test_a_text_is_what_it_must_be(
    runtime: sgl.Runtime, options: dict[str, Any], expression: str, gen_seed: int
) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x" + sgl.gen("value", max_tokens=400, seed=gen_seed, **options)

    state = program.run()
    if state.get_meta_info("value")["finish_reason"]["type"] != "length":
        assert re.fullmatch(expression, state["value"])


def test_log_probabilities_have_sglangs_shape(runtime: sgl.Runtime) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "the fox" + sgl.gen(
            "x",
            max_tokens=4,
            return_logprob=True,
            top_logprobs_num=3,
            return_text_in_logprobs=True,
            logprob_start_len=2,
        )
        s += sgl.gen("none", max_tokens=0, return_logprob=True, top_logprobs_num=2)

    state = program.run()
    info = state.get_meta_info("x")
    ids = runtime.get_tokenizer().encode("the fox")
    assert [token[1] for token in info["input_token_logprobs"]] == ids[2:]
    assert len(info["output_token_logprobs"]) == 4 and [len(top) for top in info["output_top_logprobs"]] == [3] * 4
    assert all(value <= 0 and isinstance(text, str) for value, _, text in info["output_token_logprobs"])
    assert state["none"] == "" and len(state.get_meta_info("none")["output_top_logprobs"][0]) == 2


class Meeting:
    """The runtime, in which three generations wait for each other."""

    def __init__(self, runtime: sgl.Runtime) -> None:
        self._runtime = runtime
        self._barrier = threading.Barrier(3)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def generate(self, *arguments: Any) -> Any:
        self._barrier.wait(PATIENCE_S)
        return self._runtime.generate(*arguments)


def test_forks_run_at_the_same_time(runtime: sgl.Runtime) -> None:
    @sgl.function
    def program(s: Any) -> None:
        forks = s.fork(3)
        forks += "x" + sgl.gen("answer", max_tokens=2)
        forks.join()

    backend: Any = Meeting(runtime)
    assert len(program.run(backend=backend)["answer"]) == 3


def test_forks_join(runtime: sgl.Runtime) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "prefix. "
        s["before"] = 1
        forks = s.fork(3)
        forks += lambda index: f"fork {index}"
        forks += sgl.gen("answer", max_tokens=4)
        forks[1] += sgl.gen("alone", max_tokens=2)
        assert [fork.text()[:14] for fork in forks] == [f"prefix. fork {index}" for index in range(3)]
        forks.join()
        with s.copy() as copied:
            copied += sgl.gen("copied", max_tokens=2)
        other = s.fork(2)
        other += ["a", "b"]
        other.join("concate_and_append")

    state = program.run()
    assert [len(state[name]) for name in ("answer", "alone", "copied")] == [3, 1, 1] and state["before"] == 1
    assert state.text() == "prefix. ab"


def test_forks_share_the_blocks_of_what_stands_before_them(runtime: sgl.Runtime, rng: np.random.Generator) -> None:
    prefix = " ".join(str(number) for number in rng.integers(0, 1000, 60))

    @sgl.function
    def program(s: Any) -> None:
        s += prefix
        forks = s.fork(4)
        forks += sgl.gen("answer", max_tokens=2)
        for fork in forks:
            info = fork.get_meta_info("answer")
            assert info["cached_tokens"] >= info["prompt_tokens"] - 2 * runtime.manifest.kv_cache.tokens_per_block

    program.run()


def test_options_are_scored_behind_a_text_that_is_computed_once(runtime: sgl.Runtime, rng: np.random.Generator) -> None:
    text = " ".join(str(number) for number in rng.integers(0, 1000, 60))

    @sgl.function
    def program(s: Any) -> None:
        s += text + sgl.select("choice", choices=[f"choice {index}" for index in range(20)])

    before = runtime._engine.stats().prompt_tokens
    program.run()
    once = len(runtime.get_tokenizer().encode(text))
    computed = runtime._engine.stats().prompt_tokens - before
    assert once <= computed <= once + 20 * (runtime.manifest.kv_cache.tokens_per_block + len("choice 19"))


def test_n_texts_are_a_list_of_which_the_first_goes_on(runtime: sgl.Runtime) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x" + sgl.gen("texts", n=3, max_tokens=6)

    state = program.run()
    assert len(state["texts"]) == 3 and state.text() == "x" + state["texts"][0]
    with pytest.raises(InflightError, match="cannot be streamed"):
        list(program.run(stream=True).text_iter())


def test_streams_join_to_the_text(runtime: sgl.Runtime, gen_seed: int) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.user("question") + sgl.assistant(sgl.gen("answer", max_tokens=40, seed=gen_seed))
        s += "tail"

    whole = program.run()
    streamed = program.run(stream=True)
    assert "".join(streamed.text_iter()) == streamed.text() == whole.text()
    assert "".join(program.run(stream=True).text_iter("answer")) == whole["answer"]
    assert list(whole.text_iter("answer")) == [whole["answer"]]
    assert list(program.run(stream=True).text_iter("nothing")) == []

    async def gather() -> str:
        return "".join([str(part) async for part in program.run(stream=True).text_async_iter()])

    assert asyncio.run(gather()) == whole.text()


def test_the_first_failure_ends_the_state_and_is_raised_by_whoever_reads(runtime: sgl.Runtime) -> None:
    @sgl.function
    def failing(s: Any) -> None:
        s += "x" + sgl.gen("bad", top_p=3.0) + sgl.gen("after")
        s["after"]

    with pytest.raises(RequestError, match=r"top_p is 3\.0"):
        failing.run()
    state = failing.run(stream=True)
    with pytest.raises(RequestError, match="top_p"):
        list(state.text_iter())
    assert isinstance(state.error(), RequestError)

    @sgl.function
    def costly(s: Any) -> None:
        s += "a" + sgl.gen("x", regex="x{1000000}", max_tokens=50)

    # The request's fault, though it shows while the engine runs.
    with pytest.raises(RequestError, match="structured output failed"):
        costly.run()

    @sgl.function
    def raising(s: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        raising.run()
    with pytest.raises(RequestError, match="top_p"):
        failing.run_batch([{}] * 3)


def test_batches_come_in_their_order(runtime: sgl.Runtime) -> None:
    @sgl.function
    def program(s: Any, word: str, more: str = "!") -> None:
        s += word + more + sgl.gen("text", max_tokens=2)

    words = [f"word {index}" for index in range(30)]
    for threads in ("auto", 1, 5):
        states = program.run_batch([{"word": word} for word in words], num_threads=threads, progress_bar=True)
        assert [state.text()[: len(word)] for state, word in zip(states, words, strict=True)] == words
    assert program.run_batch([("a", "b")])[0].text().startswith("ab")
    assert program.run_batch([]) == []
    stream = program.run_batch([{"word": word} for word in words], generator_style=True)
    assert next(stream).text().startswith(words[0]) and len(list(stream)) == len(words) - 1
    with pytest.raises(InflightError, match="has 2 arguments"):
        program.run_batch([("a", "b", "c")])

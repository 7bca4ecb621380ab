"""Programs as SGLang's users write them, over the demonstration model: in this process, and over real servers.

The same program says the same on all of them.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inflight.lang as sgl
from inflight.errors import EngineError, InflightError, RequestError
from tests.endpoint.conftest import free_ports
from tests.engines.demo_engine import random_questions

pytestmark = pytest.mark.endpoint


@pytest.fixture(scope="module")
def runtime(demo_engine: Path) -> Iterator[sgl.Runtime]:
    with sgl.Runtime(model_path=str(demo_engine), max_total_tokens=8192) as runtime:
        yield runtime


@pytest.fixture(params=["runtime", "embedded_demo", "triton_demo"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    found = request.getfixturevalue(request.param)
    sgl.set_default_backend(found if request.param == "runtime" else sgl.RuntimeEndpoint(found))
    yield found
    sgl.set_default_backend(None)


@sgl.function
def multi_turn_question(s: Any, question_1: str, question_2: str) -> None:
    s += sgl.user(question_1)
    s += sgl.assistant(sgl.gen("answer_1", max_tokens=128))
    s += sgl.user(question_2)
    with s.assistant():
        s += sgl.gen("answer_2", max_tokens=128)


@sgl.function
def tool_use(s: Any, question: str) -> None:
    s += "To answer this question: " + question + ". "
    s += "I need to use a " + sgl.gen("tool", choices=["calculator", "search engine"]) + ". "
    if s["tool"] == "calculator":
        s += "The math expression is" + sgl.gen("expression", max_tokens=8)
    elif s["tool"] == "search engine":
        s += "The key word to search is" + sgl.gen("word", max_tokens=8)


@sgl.function
def tip_suggestion(s: Any) -> None:
    s += "Here are two tips for staying healthy: 1. Balanced Diet. 2. Regular Exercise.\n\n"
    forks = s.fork(2)
    for i, f in enumerate(forks):
        f += f"Now, expand tip {i + 1} into a paragraph:\n"
        f += sgl.gen("detailed_tip", max_tokens=16, stop="\n\n")
    s += "Tip 1:" + forks[0]["detailed_tip"] + "\n"
    s += "Tip 2:" + forks[1]["detailed_tip"] + "\n"
    s += "In summary" + sgl.gen("summary", max_tokens=8)


@sgl.function
def best_of_n(s: Any, question: str, n: int) -> None:
    s += sgl.user(question)
    forks = s.fork(n)
    forks += sgl.assistant(sgl.gen("answer", max_tokens=128, return_logprob=True))
    means = []
    for f in forks:
        tokens = f.get_meta_info("answer")["output_token_logprobs"]
        means.append(sum(token[0] for token in tokens) / len(tokens))
    s["best"] = forks[means.index(max(means))]["answer"]
    forks.join()


@sgl.function
def extract_entity(s: Any, text: str) -> None:
    s += "Extract the module as JSON.\n" + text + "\n"
    s += sgl.gen("entity", max_tokens=200, regex=r'\{"module": "[a-z_]{1,12}", "functions": [1-9][0-9]{0,2}\}')


@sgl.function
def classify(s: Any, question: str) -> None:
    s += "Question: " + question + "\nIt asks for a " + sgl.select("kind", choices=["signature", "module", "summary"])


def test_a_conversation_is_answered_as_the_model_was_taught(backend: Any, rng: np.random.Generator) -> None:
    (first, answer), (second, _) = random_questions(rng, 2)
    state = multi_turn_question.run(question_1=first, question_2=second, temperature=0)
    assert state["answer_1"] == answer
    assert [message["role"] for message in state.messages()] == ["user", "assistant"] * 2
    assert state.get_meta_info("answer_1")["finish_reason"]["type"] == "stop"
    streamed = multi_turn_question.run(question_1=first, question_2=second, temperature=0, stream=True)
    assert "".join(streamed.text_iter("answer_2")) == state["answer_2"]
    assert streamed.text() == state.text()


def test_the_same_program_says_the_same_everywhere(
    runtime: sgl.Runtime, embedded_demo: str, triton_demo: str, rng: np.random.Generator
) -> None:
    questions = [question for question, _ in random_questions(rng, 3)]
    found: list[tuple[list[str], Any]] = []
    for backend in (runtime, sgl.RuntimeEndpoint(embedded_demo), sgl.RuntimeEndpoint(f"{triton_demo}/v1")):
        options: dict[str, Any] = {"temperature": 0, "backend": backend}
        tools = tool_use.run_batch([{"question": each} for each in questions], **options)
        tips = tip_suggestion.run(**options)
        texts = [state.text() for state in [*tools, tips]]
        values = [state.get_meta_info("tool")["normalized_prompt_logprobs"] for state in tools]
        found.append((texts, np.array(values)))
    for texts, scores in found[1:]:
        assert texts == found[0][0]
        np.testing.assert_allclose(scores, found[0][1], atol=1e-5)


def test_the_best_of_some_answers(backend: Any, rng: np.random.Generator) -> None:
    ((question, answer),) = random_questions(rng, 1)
    state = best_of_n.run(question=question, n=4, temperature=0.7)
    assert len(state["answer"]) == 4 and state["best"] in state["answer"]
    assert best_of_n.run(question=question, n=2, temperature=0)["best"] == answer


def test_records_are_of_their_form(backend: Any, rng: np.random.Generator) -> None:
    ((question, _),) = random_questions(rng, 1)
    entity = json.loads(extract_entity.run(question)["entity"])
    assert set(entity) == {"module", "functions"}

    @sgl.function
    def schema(s: Any) -> None:
        s += "A module:" + sgl.gen(
            "x", max_tokens=200, json_schema=json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}})
        )
        s += sgl.gen_int("number", max_tokens=9) + " " + sgl.gen_string("string", max_tokens=60)

    state = schema.run()
    assert re.fullmatch(r"[-+]?\d+", state["number"])


def test_a_batch_is_classified(backend: Any, rng: np.random.Generator) -> None:
    rows = [{"question": question} for question, _ in random_questions(rng, 12)]
    states = classify.run_batch(rows, num_threads=6, progress_bar=True)
    assert all(state["kind"] in ("signature", "module", "summary") for state in states)
    one = classify.run(**rows[0])
    assert one["kind"] == states[0]["kind"]


def test_forks_share_what_stands_before_them(backend: Any, rng: np.random.Generator) -> None:
    prefix = " ".join(str(number) for number in rng.integers(0, 10**6, 60))

    @sgl.function
    def program(s: Any) -> None:
        s += prefix
        forks = s.fork(3)
        forks += "x" + sgl.gen("answer", max_tokens=2)
        for fork in forks:
            info = fork.get_meta_info("answer")
            assert 0 < info["prompt_tokens"] - info["cached_tokens"] < 100

    program.run()


def test_any_openai_server_serves_chats_and_completions(embedded_demo: str, rng: np.random.Generator) -> None:
    ((question, answer),) = random_questions(rng, 1)
    chat = sgl.OpenAI("demo", base_url=f"{embedded_demo}/v1", api_key="none")
    state = multi_turn_question.run(question_1=question, question_2=question, temperature=0, backend=chat)
    assert state["answer_1"] == answer and state.messages()[1]["content"] == answer
    streamed = multi_turn_question.run(question_1=question, question_2="x", temperature=0, backend=chat, stream=True)
    assert "".join(streamed.text_iter("answer_1")) == answer
    completion = sgl.OpenAI("demo", is_chat_model=False, base_url=f"{embedded_demo}/v1", api_key="none")
    assert json.loads(extract_entity.run("x", backend=completion)["entity"])
    with pytest.raises(InflightError, match="cannot score options"):
        classify.run("x", backend=completion)
    with pytest.raises(InflightError, match="at the beginning of one of the assistant"):
        extract_entity.run("x", backend=chat)


def test_text_that_no_message_holds_is_not_lost_in_silence(embedded_demo: str) -> None:
    @sgl.function
    def program(s: Any, before: str, between: str) -> None:
        s += before + sgl.user("x") + between + sgl.assistant(sgl.gen("answer", max_tokens=4))

    chat = sgl.OpenAI("demo", base_url=f"{embedded_demo}/v1", api_key="none")
    assert "answer" in program.run("\n", " \n", backend=chat)
    for before, between in (("You are a fox.", ""), ("", "and")):
        with pytest.raises(InflightError, match="reads messages alone"):
            program.run(before, between, backend=chat)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"data": []}', b'{"data": [{"id": "a"}, {"id": "b"}]}'])
def test_a_server_that_is_not_inflights_is_refused_by_name(answer: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json" if answer[:1] != b"<" else "text/html")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InflightError, match="is no server of inflight"):
            sgl.RuntimeEndpoint(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_stream_that_ends_without_its_usage_is_an_error() -> None:
    """As one that a proxy cuts off, or changes."""
    answers = {
        "/v1/models": b'{"data": [{"id": "a", "max_model_len": 100}]}',
        "/tokenize": b'{"tokens": [1, 2]}',
        "/v1/completions": b'data: {"id": "1", "choices": [{"index": 0, "text": "fox", "token_ids": [3]}]}\n\n'
        b"data: [DONE]\n\n",
    }

    class Cut(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = answers[self.path]
            self.send_response(200)
            kind = "text/event-stream" if answer[:1] == b"d" else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

    @sgl.function
    def program(s: Any) -> None:
        s += "x" + sgl.gen("x", max_tokens=4)

    with ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        backend = sgl.RuntimeEndpoint(f"http://127.0.0.1:{server.server_port}")
        state = program.run(backend=backend, stream=True)
        with pytest.raises(EngineError, match="without its usage"):
            list(state.text_iter())
        server.shutdown()


def test_what_a_server_refuses_is_raised_in_its_words(embedded_demo: str) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "x" + sgl.gen("x", regex="(")

    with pytest.raises(RequestError, match="regular expression cannot be used"):
        program.run(backend=sgl.RuntimeEndpoint(embedded_demo))
    (port,) = free_ports(1)
    with pytest.raises(EngineError, match="cannot be reached"):
        sgl.RuntimeEndpoint(f"http://127.0.0.1:{port}")

"""Parameters that other servers take, each with its effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.load import load_engine
from inflight.triton_backend.openai import limits
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from tests.endpoint.conftest import MODEL, running_shim
from tests.endpoint.openai_api.test_openai_api import post
from tests.engines.serving_engines import write_null_engine

pytestmark = pytest.mark.endpoint

# Of the engine that the fixtures serve.
MAX_SEQ_LEN = 1 << 16
PROMPT = "a lazy fox and 東京 dogs, again and again and again"
COMPLETION: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 9, "ignore_eos": True}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3, "ignore_eos": True}


def ask(shim: str, path: str, body: dict[str, Any]) -> Any:
    status, answer = post(shim, path, json.dumps(body).encode())
    assert status == 200, answer
    return answer


def complete(shim: str, **body: Any) -> Any:
    return ask(shim, "/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "seed": 3, "ignore_eos": True, **body})


def refusal(shim: str, path: str, body: dict[str, Any]) -> tuple[int, str, str]:
    status, answer = post(shim, path, json.dumps(body).encode())
    return status, answer["error"]["param"], answer["error"]["message"]


def events(shim: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        stream = client.post(
            path, body={**body, "stream": True}, cast_to=object, stream=True, stream_cls=openai.Stream[Any]
        )
        return list(stream)


@pytest.mark.parametrize("prompt", [PROMPT, list(range(40, 60))])
def test_a_prompt_is_scored_without_generating(shim: str, prompt: Any) -> None:
    scored = complete(shim, prompt=prompt, max_tokens=0, echo=True, logprobs=2)
    longer = complete(shim, prompt=prompt, max_tokens=1, echo=True, logprobs=2)
    choice, generated = scored["choices"][0], longer["choices"][0]
    assert scored["usage"]["completion_tokens"] == 0
    assert scored["usage"]["total_tokens"] == scored["usage"]["prompt_tokens"]
    assert choice["finish_reason"] == "length"
    assert generated["text"].startswith(choice["text"])
    for key, values in choice["logprobs"].items():
        assert values == generated["logprobs"][key][:-1], key
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert isinstance(choice["logprobs"]["token_logprobs"][1], float)


def test_scoring_streams_and_takes_many_prompts(shim: str) -> None:
    body = {"prompt": ["fox", "a dog"], "max_tokens": 0, "echo": True, "logprobs": 0}
    whole = complete(shim, **body)
    chunks = [event["choices"][0] for event in events(shim, "/completions", body)]
    for choice in whole["choices"]:
        parts = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts] == [None, "length"]
        assert parts[0]["logprobs"] == choice["logprobs"]


def test_a_prompt_that_fills_the_context_is_scored(tmp_path: Path, rng: np.random.Generator) -> None:
    """The token that the engine then generates needs no place."""
    length = int(rng.integers(2, 200))
    engine = write_null_engine(tmp_path / "engine", max_seq_len=length)
    prompt = rng.integers(40, 200, length).tolist()
    body = {"prompt": prompt, "max_tokens": 0, "echo": True, "n": 2}
    with running_shim(engine, EmbeddedBackend(EngineThread(EngineCore(load_engine(engine))))) as shim:
        scored = complete(shim, **body, logprobs=0)
        assert (scored["usage"]["total_tokens"], scored["usage"]["completion_tokens"]) == (length, 0)
        assert [len(choice["logprobs"]["token_logprobs"]) for choice in scored["choices"]] == [length] * 2
        assert complete(shim, **body)["usage"]["total_tokens"] == length
        for more, asks_for in (({"prompt": [*prompt, 40]}, False), ({"max_tokens": 1}, True)):
            status, param, message = refusal(shim, "/v1/completions", {**body, **more})
            assert (status, param) == (400, "prompt"), message
            assert ("1 for the completion" in message) == asks_for


def test_no_tokens_without_an_echo_are_refused(embedded_shim: str) -> None:
    status, param, message = refusal(embedded_shim, "/v1/completions", {"prompt": "fox", "max_tokens": 0})
    assert (status, param) == (400, "max_tokens") and "echo" in message


def test_prompt_log_probabilities_have_vllms_shape(shim: str) -> None:
    answer = complete(shim, prompt_logprobs=3, logprobs=1, echo=True, return_token_ids=True)
    choice = answer["choices"][0]
    ids, found = choice["prompt_token_ids"], choice["prompt_logprobs"]
    assert len(found) == len(ids) == answer["usage"]["prompt_tokens"]
    assert found[0] is None
    echoed = choice["logprobs"]["token_logprobs"]
    for position, (token, entry) in enumerate(zip(ids[1:], found[1:], strict=True), 1):
        assert entry[str(token)]["logprob"] == echoed[position]
        assert sorted(each["rank"] for each in entry.values())[:3] == [1, 2, 3]
        assert all(set(each) == {"logprob", "rank", "decoded_token"} for each in entry.values())
    assert all(len(top) <= 2 for top in choice["logprobs"]["top_logprobs"] if top), "logprobs asked for one"
    chat = ask(shim, "/v1/chat/completions", {**CHAT, "prompt_logprobs": 0, "return_token_ids": True})
    assert [list(entry or ()) for entry in chat["prompt_logprobs"][1:]] == [
        [str(token)] for token in chat["prompt_token_ids"][1:]
    ]
    late = complete(shim, prompt_logprobs=3, prompt_logprobs_start=len(ids) - 1)["choices"][0]["prompt_logprobs"]
    assert late == [None] * (len(ids) - 1) + found[-1:]
    stream = {**CHAT, "prompt_logprobs": 0, "stream": True}
    assert refusal(shim, "/v1/chat/completions", stream)[:2] == (400, "prompt_logprobs")


def test_token_ids_come_with_the_text(shim: str) -> None:
    for path, body in (
        ("/completions", {"prompt": PROMPT, "max_tokens": 9, "ignore_eos": True}),
        ("/chat/completions", CHAT),
    ):
        body = {**body, "seed": 1, "return_token_ids": True, "n": 2}
        whole = ask(shim, f"/v1{path}", body)
        chunks = events(shim, path, body)
        prompts = {tuple(ids) for piece in chunks for ids in (prompt_ids(piece),) if ids}
        assert prompts == {tuple(prompt_ids(whole))}
        for choice in whole["choices"]:
            parts = [piece["choices"][0] for piece in chunks if piece["choices"][0]["index"] == choice["index"]]
            assert [token for part in parts for token in part.get("token_ids", [])] == choice["token_ids"]
            assert len(choice["token_ids"]) == body["max_tokens"]


def prompt_ids(piece: dict[str, Any]) -> Any:
    """vLLM has them beside the choices in chat, in the choice otherwise."""
    return piece.get("prompt_token_ids") or piece["choices"][0].get("prompt_token_ids")


def test_a_prompt_is_truncated_on_either_side(shim: str, rng: np.random.Generator) -> None:
    ids = rng.integers(40, 200, 30).tolist()
    length = int(rng.integers(1, 30))

    def kept(**body: Any) -> Any:
        return complete(shim, prompt=ids, return_token_ids=True, **body)["choices"][0]["prompt_token_ids"]

    assert kept(truncate_prompt_tokens=length) == ids[-length:]
    assert kept(truncate_prompt_tokens=length, truncation_side="right") == ids[:length]
    assert kept(truncate_prompt_tokens=-1) == kept(truncate_prompt_tokens=1000) == ids
    echoed = complete(shim, prompt=PROMPT, truncate_prompt_tokens=2, echo=True, return_token_ids=True)["choices"][0]
    assert len(echoed["prompt_token_ids"]) == 2 and PROMPT.endswith(echoed["text"][:2])


def test_minus_one_truncates_to_what_the_model_has_room_for(embedded_shim: str) -> None:
    body = {"prompt": [7] * (MAX_SEQ_LEN + 5), "max_tokens": 3, "truncate_prompt_tokens": -1, "ignore_eos": True}
    assert ask(embedded_shim, "/v1/completions", body)["usage"]["total_tokens"] == MAX_SEQ_LEN


def test_a_prompt_far_above_the_engines_length_is_truncated(embedded_shim: str, rng: np.random.Generator) -> None:
    ids = rng.integers(40, 200, MAX_SEQ_LEN * 3 // 2).tolist()
    text = "fox " * (limits.MAX_BODY_BYTES // 5)
    length = int(rng.integers(1, 30))
    more = {"truncate_prompt_tokens": length, "max_tokens": 1}
    for path, body in (
        ("/v1/completions", {"prompt": ids}),
        ("/v1/completions", {"prompt": [text, "a dog " * 30]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
    ):
        answer = ask(embedded_shim, path, body | more)
        assert answer["usage"]["prompt_tokens"] == length * len({choice["index"] for choice in answer["choices"]})
        param = "messages" if "messages" in body else "prompt.0" if body["prompt"] is not ids else "prompt"
        assert refusal(embedded_shim, path, {**body, "max_tokens": 1})[:2] == (400, param)


def test_the_usage_so_far_is_in_every_chunk_when_asked_for(shim: str) -> None:
    for path, body in (
        ("/completions", {"prompt": PROMPT, "max_tokens": 9, "ignore_eos": True}),
        ("/chat/completions", CHAT),
    ):
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = events(shim, path, {**body, "seed": 1, "stream_options": options})
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts) and counts[-1] == body["max_tokens"]
        assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {chunks[-1]["usage"]["prompt_tokens"]}
        only = events(shim, path, {**body, "stream_options": {"continuous_usage_stats": True}})
        assert all("usage" not in chunk for chunk in only)


def test_cached_tokens_are_counted(shim: str, rng: np.random.Generator) -> None:
    prompt = rng.integers(40, 200, 50).tolist()
    for cached in (0, 48):
        answer = complete(shim, prompt=prompt, n=2)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == cached
    options = {"include_usage": True}
    # Ended by a stop string, which the engine does not know.
    stop = answer["choices"][0]["text"][:1]
    body = {"prompt": prompt, "seed": 3, "max_tokens": 4, "stream_options": options, "ignore_eos": True, "stop": stop}
    *_, last = events(shim, "/completions", body)
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        usage = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1).usage
    assert usage is not None and usage.prompt_tokens_details is not None and usage.completion_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 48
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_a_salt_keeps_the_prefix_cache_apart(shim: str, rng: np.random.Generator) -> None:
    prompt = rng.integers(40, 200, 50).tolist()
    for salt, cached in ((None, 0), ("a", 0), ("a", 48), ("b", 0), (None, 48), ("", 48)):
        answer = complete(shim, prompt=prompt, cache_salt=salt)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == cached, salt
    chat = {"messages": [{"role": "user", "content": str(prompt)}], "max_tokens": 2}
    for salt, has_cached in (("a", False), ("b", False), ("b", True)):
        usage = ask(shim, "/v1/chat/completions", {**chat, "cache_salt": salt})["usage"]
        assert (usage["prompt_tokens_details"]["cached_tokens"] > 0) == has_cached
    for wrong in (7, "x" * 2000):
        assert refusal(shim, "/v1/completions", {"prompt": "x", "cache_salt": wrong})[:2] == (400, "cache_salt")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"stream": 1}, "stream"),
        ({"seed": "5"}, "seed"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {"5": "1"}}, "logit_bias.5"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop.1"),
        ({"user": 5}, "user"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
def test_types_are_those_of_json(embedded_shim: str, change: dict[str, Any], param: str) -> None:
    assert refusal(embedded_shim, "/v1/chat/completions", CHAT | change)[:2] == (400, param)


def test_an_integer_is_a_number_and_a_key_of_the_bias_is_one_by_its_spelling(shim: str) -> None:
    complete(shim, temperature=1, top_p=1, logit_bias={"40": -100, "41": 3})


def test_labels_change_nothing_and_an_id_of_the_clients_own_is_in_the_answers(embedded_shim: str) -> None:
    labels = {
        "store": True,
        "user": "me",
        "metadata": {"a": "b"},
        "session_id": "s",
        "safety_identifier": "x",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
    }
    plain = ask(embedded_shim, "/v1/chat/completions", {**CHAT, "seed": 1})
    labelled = ask(embedded_shim, "/v1/chat/completions", {**CHAT, "seed": 1, **labels, "request_id": "mine"})
    assert plain["choices"] == labelled["choices"]
    assert labelled["id"] == "chatcmpl-mine"

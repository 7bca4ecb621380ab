"""TGI's API with huggingface_hub's InferenceClient, given the URL alone."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from tests.endpoint.conftest import MODEL
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.fixture
def client(shim: str) -> InferenceClient:
    return InferenceClient(model=shim, timeout=PATIENCE_S)


@pytest.fixture
def prompt(rng: np.random.Generator) -> str:
    return "fox " * int(rng.integers(1, 9))


def test_the_same_text_as_completions(client: InferenceClient, shim: str, prompt: str) -> None:
    """Greedy, as nothing asks for sampling."""
    other = openai.OpenAI(base_url=f"{shim}/v1", api_key="none").completions.create(
        model=MODEL, prompt=prompt, max_tokens=20, temperature=0
    )
    text = other.choices[0].text
    assert client.text_generation(prompt, max_new_tokens=20) == text
    assert client.text_generation(prompt, max_new_tokens=20, return_full_text=True) == prompt + text
    assert client.text_generation(prompt, max_new_tokens=20, temperature=1.0) == text
    by_path = httpx.post(
        f"{shim}/generate", json={"inputs": prompt, "parameters": {"max_new_tokens": 20}}, timeout=PATIENCE_S
    )
    assert by_path.json() == {"generated_text": text}
    assert client.text_generation(prompt + prompt, truncate=3, max_new_tokens=4, details=True).generated_text


def test_details_whole_and_streamed(client: InferenceClient, prompt: str, rng: np.random.Generator) -> None:
    asked: dict[str, Any] = {
        "max_new_tokens": int(rng.integers(5, 60)),
        "do_sample": True,
        "seed": int(rng.integers(1 << 30)),
        "top_n_tokens": 2,
        "top_k": 40,
    }
    whole = client.text_generation(prompt, details=True, decoder_input_details=True, **asked)
    details = whole.details
    assert details is not None and details.seed == asked["seed"]
    assert len(details.tokens) == details.generated_tokens == len(details.top_tokens or ())
    assert all(len(each) == 2 for each in details.top_tokens or ())
    assert "".join(token.text for token in details.tokens if not token.special) == whole.generated_text
    events = list(client.text_generation(prompt, details=True, stream=True, **asked))
    assert [asdict(event.token) for event in events] == [asdict(token) for token in details.tokens]
    assert [event.index for event in events] == list(range(1, len(events) + 1))
    last = events[-1]
    assert last.generated_text == whole.generated_text and last.details is not None
    assert last.details.finish_reason == details.finish_reason
    assert last.details.input_length == len(details.prefill) > 0
    assert all(event.details is None and event.generated_text is None for event in events[:-1])
    pieces = client.text_generation(prompt, stream=True, **asked)
    assert "".join(pieces) == "".join(event.token.text for event in events)


def test_the_reasons_of_an_end(client: InferenceClient, prompt: str) -> None:
    texts = {
        each: client.text_generation(each, max_new_tokens=30) for each in (prompt, f"{prompt}and", f"the {prompt}", "a")
    }
    prompt, text = next((each, text) for each, text in texts.items() if len(text) >= 4)
    stopped = client.text_generation(prompt, max_new_tokens=30, stop=[text[2:4]], details=True)
    assert stopped.generated_text == text[: text.index(text[2:4]) + 2]
    assert stopped.details is not None and stopped.details.finish_reason == "stop_sequence"
    reasons = set()
    for seed in range(60):
        found = client.text_generation(prompt, max_new_tokens=300, do_sample=True, seed=seed, details=True)
        assert found.details is not None
        reasons.add(found.details.finish_reason)
        if found.details.finish_reason == "eos_token":
            last = found.details.tokens[-1]
            assert last.special or (last.text and found.generated_text.endswith(last.text))
            break
    assert "eos_token" in reasons


def test_the_best_of_several(client: InferenceClient, prompt: str) -> None:
    found = client.text_generation(prompt, max_new_tokens=9, do_sample=True, best_of=3, details=True)
    assert found.details is not None and found.details.best_of_sequences is not None
    assert len(found.details.best_of_sequences) == 2
    sequences: list[Any] = [found.details, *found.details.best_of_sequences]
    means = [sum(token.logprob for token in each.tokens) / len(each.tokens) for each in sequences]
    assert means == sorted(means, reverse=True)


def test_a_grammar_is_followed(url: str, prompt: str) -> None:
    client = InferenceClient(model=url, timeout=PATIENCE_S)
    schema: dict[str, Any] = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    schema["additionalProperties"] = False
    grammars: list[Any] = [
        {"type": "json", "value": schema},
        {"type": "json_schema", "value": {"name": "x", "schema": schema}},
    ]
    for grammar in grammars:
        answer: Any = client.text_generation(prompt, max_new_tokens=300, grammar=grammar)
        assert isinstance(json.loads(answer)["yes"], bool)
    digits: Any = {"type": "regex", "value": "[0-9]{3}"}
    assert re.fullmatch("[0-9]{3}", client.text_generation(prompt, max_new_tokens=9, grammar=digits))


def test_the_server_says_what_it_is(client: InferenceClient, shim: str, prompt: str) -> None:
    info = httpx.get(f"{shim}/info").json()
    assert info["model_id"] == MODEL and info["max_total_tokens"] == 1 << 16
    assert httpx.get(f"{shim}/health").status_code == 200
    client.text_generation(prompt, max_new_tokens=3)
    metrics = dict(
        line.rsplit(" ", 1) for line in httpx.get(f"{shim}/metrics").text.splitlines() if line.startswith("tgi_")
    )
    assert float(metrics["tgi_request_count"]) >= float(metrics["tgi_request_success"]) >= 1
    for name in ("request_duration", "request_generated_tokens", "request_input_length", "request_max_new_tokens"):
        assert float(metrics[f"tgi_{name}_count"]) >= 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"inputs": 3}, "inputs"),
    ({"parameters": {"max_new_tokens": 0}}, "max_new_tokens"),
    ({"parameters": {"max_new_tokens": 1 << 20}}, "context length"),
    ({"parameters": {"temperature": 0}}, "temperature"),
    ({"parameters": {"best_of": 2}}, "sampling"),
    ({"parameters": {"best_of": 2, "do_sample": True, "seed": 1}}, "seed"),
    ({"parameters": {"watermark": 1}}, "watermark"),
    ({"parameters": {"adapter_id": "x"}}, "LoRA"),
    ({"parameters": {"repetition_penalty": -1}}, "repetition_penalty"),
    ({"parameters": {"grammar": {"type": "regex", "value": "("}}}, "("),
    ({"parameters": {"max_tokens": 3}}, "Unknown parameter: 'parameters.max_tokens'"),
    ({"parameters": {"best_of": 2, "do_sample": True}, "stream": True}, "streaming"),
    ({"parameters": {"decoder_input_details": True}, "stream": True}, "streaming"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_input_is_a_422_in_tgis_shape(shim: str, change: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{shim}/", json={"inputs": "fox"} | change, timeout=PATIENCE_S)
    assert answer.status_code == 422, answer.text
    error = answer.json()
    assert set(error) == {"error", "error_type"} and error["error_type"] == "validation"
    assert error["error"].startswith("Input validation error: ") and words in error["error"]


def test_the_package_raises_its_own_errors(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="LoRA"):
        client.text_generation("fox", adapter_id="x")

"""SGLang's own /generate, as its pages send it with plain HTTP, beside completions."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.endpoint.conftest import MODEL
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

GREEDY = {"temperature": 0, "max_new_tokens": 24}


def ask(shim: str, **body: Any) -> Any:
    answer = httpx.post(f"{shim}/generate", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def completed(shim: str, prompt: Any, **more: Any) -> Any:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 24, "temperature": 0, "return_token_ids": True, **more}
    return httpx.post(f"{shim}/v1/completions", json=body, timeout=PATIENCE_S).json()


def test_text_ids_and_lists(shim: str, rng: np.random.Generator) -> None:
    texts = ["fox " * int(rng.integers(1, 9)), "a lazy dog"]
    (expected, other) = completed(shim, texts)["choices"]
    one = ask(shim, text=texts[0], sampling_params=GREEDY)
    assert (one["text"], one["output_ids"]) == (expected["text"], expected["token_ids"])
    kinds = {"length": {"type": "length", "length": len(one["output_ids"])}}
    meta = one["meta_info"]
    assert meta["finish_reason"] == kinds.get(expected["finish_reason"], {"type": "stop", "matched": None})
    assert meta["prompt_tokens"] == len(expected["prompt_token_ids"])
    assert [each["text"] for each in ask(shim, text=texts, sampling_params=GREEDY)] == [one["text"], other["text"]]
    by_ids = ask(shim, input_ids=expected["prompt_token_ids"], sampling_params=GREEDY)
    assert by_ids["output_ids"] == one["output_ids"]
    assert ask(shim, text="What is a fox?")["text"] is not None
    several = ask(shim, text="fox", sampling_params={"n": 2, "sampling_seed": 3, "max_new_tokens": 5})
    assert len(several) == 2


def test_a_stream_has_the_text_so_far(shim: str) -> None:
    whole = ask(shim, text="fox", sampling_params=GREEDY)
    body = {"text": "fox", "sampling_params": GREEDY, "stream": True}
    shown, before = "", 0
    with httpx.stream("POST", f"{shim}/generate", json=body, timeout=PATIENCE_S) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        data = json.loads(line[5:])
        shown += data["text"][before:]
        before = len(data["text"])
    assert shown == whole["text"] and data["meta_info"]["finish_reason"] == whole["meta_info"]["finish_reason"]


def test_log_probabilities_and_structures(tool_shim: str) -> None:
    found = ask(
        tool_shim,
        text="a lazy fox",
        sampling_params={"temperature": 0, "max_new_tokens": 4},
        return_logprob=True,
        logprob_start_len=1,
        top_logprobs_num=2,
        return_text_in_logprobs=True,
    )
    meta = found["meta_info"]
    assert [token[1] for token in meta["output_token_logprobs"]] == found["output_ids"]
    assert all(len(each) == 2 for each in meta["output_top_logprobs"])
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"] - 1 and meta["input_token_logprobs"][0][0] < 0
    for asked in ({"regex": "(fox|dog)"}, {"ebnf": 'root ::= "fox" | "dog"'}, {"json_schema": '{"enum": ["fox"]}'}):
        text = ask(tool_shim, text="x", sampling_params={**asked, "max_new_tokens": 30})["text"]
        assert text.strip().strip('"') in ("fox", "dog")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"text": "x", "input_ids": [1]}, "Give text or input_ids"),
        ({"text": "x", "sampling_params": {"max_new_tokens": 0}}, "max_new_tokens"),
        ({"text": "x", "sampling_params": {"temprature": 0}}, "temprature"),
        ({"text": "x", "image_data": "y"}, "images"),
        ({"text": ["x", "y"], "stream": True}, "one prompt"),
        ({"txt": "x"}, "inputs"),
    ],
)
def test_bad_input_is_named(shim: str, body: dict[str, Any], words: str) -> None:
    answer = httpx.post(f"{shim}/generate", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 422 and words in answer.json()["error"], answer.text

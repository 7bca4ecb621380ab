"""What LLM's methods take as prompts and texts: every form, and every other value refused with its place."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime.request.given import GivenPrompt, given_prompts, given_texts

pytestmark = pytest.mark.unit

# Values of which none is a prompt, a text or a token id.
_WRONG: list[Any] = [
    None,
    True,
    1.5,
    b"xy",
    bytearray(b"x"),
    {1, 2},
    {},
    {"prompt": 5},
    {"text": None},
    object(),
    [[[]]],
]


def test_one_prompt_in_every_form() -> None:
    for text in ("fox", {"prompt": "fox"}, {"text": "fox"}):
        assert given_prompts(text) == [GivenPrompt("fox", None, None)]
        assert given_prompts([text]) == [GivenPrompt("fox", None, "prompts[0]")]
    for ids in ([5, 6], (5, 6), range(5, 7), np.array([5, 6]), {"prompt_token_ids": [5, 6]}):
        (found,) = given_prompts(ids)
        assert found == GivenPrompt(None, (5, 6), None) and {type(each) for each in found.token_ids or ()} == {int}
    both = {"prompt": "fox", "prompt_token_ids": [7], "cache_salt": "a"}
    assert given_prompts(both) == [GivenPrompt("fox", (7,), None, "a")]
    assert given_prompts(["fox", [5], both])[1:] == [
        GivenPrompt(None, (5,), "prompts[1]"),
        GivenPrompt("fox", (7,), "prompts[2]", "a"),
    ]
    assert given_prompts([]) == [] and given_prompts([[]]) == [GivenPrompt(None, (), "prompts[0]")]
    assert [each.text for each in given_texts(({"text": "a"}, "b"), "documents")] == ["a", "b"]


@pytest.mark.parametrize("wrong", _WRONG, ids=lambda value: type(value).__name__)
def test_what_is_no_prompt_is_refused_with_its_place(wrong: Any, seed: int) -> None:
    drawn = random.Random(seed)
    before: list[Any] = [drawn.choice(["a", [5], {"prompt": "b"}]) for _ in range(drawn.randint(1, 4))]
    place = rf"prompts\[{len(before)}\]"
    with pytest.raises(RequestError, match=f"^{place}"):
        given_prompts([*before, wrong, "c"])
    with pytest.raises(RequestError, match=f"^{place}"):
        given_prompts([*before, [5, wrong]])
    with pytest.raises(RequestError, match=r"^prompts"):
        given_prompts(wrong)
    texts = [each for each in before if isinstance(each, str)]
    for more in (wrong, 5, [2, 3]):
        with pytest.raises(RequestError, match=rf"^documents\[{len(texts)}\]"):
            given_texts([*texts, more], "documents")
    with pytest.raises(RequestError, match=r"^queries"):
        given_texts(wrong, "queries")


def test_numbers_and_bytes_say_what_they_are() -> None:
    for wrong, words in (
        (5, "prompts is 5"),
        ([True], r"prompts\[0\] is True; token ids are integers"),
        ([b"x"], r"prompts\[0\] is of type bytes"),
        ({"prompt_token_ids": [1, "a"]}, r'prompts\["prompt_token_ids"\]\[1\] is of type str'),
        ({"query": "a"}, "prompts is a mapping of 'query'"),
        ({"prompt": "a", "text": "b"}, "one of prompt, text"),
        ([10**5000, "a"], r"prompts\[0\] is of type int"),
    ):
        with pytest.raises(RequestError, match=words):
            given_prompts(wrong)

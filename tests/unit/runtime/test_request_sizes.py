"""How large the lists of SamplingParams may be, and how long a text can be a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.prompt_characters import check_characters, most_characters
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.sampling_parameters import SAMPLING_PARAMETERS
from tests.models.tiny_tokenizers import KINDS

pytestmark = pytest.mark.unit

BOUNDED = [row for row in SAMPLING_PARAMETERS if row.most and row.kind != "text"]
ENTRIES: dict[str, Any] = {"strings": "x", "ids": 3, "words": (3,)}


def params(name: str, value: Any) -> SamplingParams:
    given: dict[str, Any] = {name: value}
    return SamplingParams(**given)


@pytest.mark.parametrize("row", BOUNDED, ids=lambda row: row.name)
def test_a_list_of_the_limit_is_taken_and_a_longer_one_is_named(row: Any) -> None:
    assert len(getattr(params(row.name, [ENTRIES[row.kind]] * row.most), row.name)) == row.most
    with pytest.raises(RequestError, match=f"^{row.name} has {row.most + 1} entries; at most {row.most} are possible"):
        params(row.name, [ENTRIES[row.kind]] * (row.most + 1))


@pytest.mark.parametrize("name", ["stop", "bad_words"])
def test_the_strings_of_a_list_are_bounded_together(name: str) -> None:
    most = next(row for row in BOUNDED if row.name == name).most_characters
    params(name, ["x" * (most - 1), "y"])
    with pytest.raises(RequestError, match=f"^{name} has {most + 1} characters in all"):
        params(name, ["x" * most, "y"])


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_of_so_many_tokens_is_longer(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    vocabulary = list(tokenizer.backend.get_vocab(with_added_tokens=True).values())
    alphabet = ["a", "b", " ", "the", "fox ", "e\u0301", "\U0001f469\u200d\U0001f680", "\n\n", "0"]
    for _ in range(50):
        drawn = tokenizer.decode(rng.choice(vocabulary, 20).tolist())
        for text in (drawn, "".join(rng.choice(alphabet, 30))):
            ids = tokenizer.encode(text, add_special_tokens=False)
            if tokenizer.decode(ids) == text:  # what the tokenizer keeps whole
                assert len(text) <= most_characters(tokenizer, len(ids))


def test_a_longer_text_is_refused_with_both_lengths() -> None:
    check_characters("The prompt", 100, 100)
    with pytest.raises(RequestError, match="The prompt has 101 characters; what this engine takes in all has 100"):
        check_characters("The prompt", 101, 100)

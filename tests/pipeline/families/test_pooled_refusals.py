"""What LLM refuses of an engine that embeds: with the place of what is wrong, and with what the engine is for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime import LLM
from tests.models.families.pooled import save_embedding_model
from tests.pipeline.families.test_pooled_texts import built

pytestmark = pytest.mark.pipeline


@pytest.fixture
def llm(tmp_path: Path, rng: np.random.Generator) -> Iterator[LLM]:
    with LLM(built(save_embedding_model(tmp_path / "model", "bert", rng), tmp_path), threads=1) as opened:
        yield opened


def test_bad_prompts_are_refused(llm: LLM) -> None:
    bad: list[tuple[Any, str]] = [
        ("", "^The input is an empty text"),
        (["fox", ""], r"^prompts\[1\]: The input is an empty text"),
        ([5, 10**6], "^The input has the token id"),
        ([[5], [-1]], r"^prompts\[1\]: The input has the token id"),
        ("\ud800", "half of a surrogate pair"),
        ([{"text": "fox \ud800"}], r"^prompts\[0\]: The input holds half"),
        ([[5], []], r"^prompts\[1\]: The input has no tokens"),
        ([None], r"^prompts\[0\] is None"),
        ([True], "token ids are integers"),
        (None, "^prompts is None"),
        ([], "^prompts is an empty list"),
    ]
    for prompt, words in bad:
        for call in (llm.embed, llm.encode):
            with pytest.raises(RequestError, match=words):
                call(prompt, use_tqdm=False)
    assert llm.embed({"text": "fox"}, use_tqdm=False)[0].outputs == llm.embed("fox", use_tqdm=False)[0].outputs
    one, other = (llm.score("fox", each, use_tqdm=False) for each in ({"text": "a dog"}, ["a dog"]))
    assert len(one) == 1 and one[0].outputs == other[0].outputs
    pairs: list[tuple[tuple[Any, Any], str]] = [
        (("q", [{"text": "a"}, 5]), r"^documents\[1\] is 5"),
        (("q", [[2, 3]]), r"^documents\[0\] is of type list, where text is needed"),
        (("q", 5), "^documents is 5"),
        (("q", []), "^documents is an empty list"),
        (([], ["a"]), "^queries is an empty list"),
        (([], []), "^queries is an empty list"),
        ((None, ["a"]), "^queries is None"),
        ((["q", ""], ["a", "b"]), r"^queries\[1\]: The (input|query) is an empty text"),
    ]
    for (queries, documents), words in pairs:
        with pytest.raises(RequestError, match=words):
            llm.score(queries, documents, use_tqdm=False)
    for options in (
        {"dimensions": 0},
        {"dimensions": 10**6},
        {"dimensions": "3"},
        {"prompt_name": "x"},
        {"prompt_name": ["x"]},
        {"truncate_prompt_tokens": 101},
        {"truncate_prompt_tokens": "5"},
        {"pooling_params": 5},
    ):
        with pytest.raises(RequestError):
            llm.embed("fox", use_tqdm=False, **cast(Any, options))
    for refused in (lambda: llm.generate("fox"), lambda: llm.classify("fox"), lambda: llm.chat([]), llm.stats):
        with pytest.raises(RequestError, match=r"(?s)makes vectors of texts.*LLM\.embed or LLM.score"):
            cast(Any, refused)()

"""Stop strings and bad words that name special tokens work, though the text does not show those tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.runtime import LLM, SamplingParams
from inflight.runtime.text.text_stream import TextStream
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.runtime.text.words import with_bad_word_ids
from tests.engines.null_engine import write_null_engine
from tests.models.tiny_tokenizers import KINDS, byte_level, random_text

pytestmark = pytest.mark.unit

SPECIAL = ("<s>", "</s>")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(KINDS[request.param]())


def special(tokenizer: Tokenizer, piece: str) -> int:
    found = tokenizer.token_id(piece)
    assert found is not None
    return found


def run(
    tokenizer: Tokenizer, ids: list[int], rng: np.random.Generator, ended: bool = False, **params: Any
) -> tuple[str, str | None, int]:
    """The joined text, the stop string, and how many tokens belong to the text, however the tokens are grouped."""
    stream, text, count, start = TextStream(tokenizer, SamplingParams(**params)), "", 0, 0
    while True:
        end = start + int(rng.integers(1, 4))
        last = end >= len(ids)
        delta = stream.push(ids[start:end], ended_by_token=ended and last, finished=last)
        text, count = text + delta.text, count + delta.num_tokens
        if delta.stop_string is not None or last:
            return text, delta.stop_string, count
        start = end


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shown", [False, True])
def test_a_special_token_that_is_a_stop_string_ends_the_text(
    tokenizer: Tokenizer, keep: bool, shown: bool, rng: np.random.Generator
) -> None:
    for _ in range(30):
        ids = tokenizer.encode("x" + random_text(rng), add_special_tokens=False)
        stop = str(rng.choice(SPECIAL))
        more = [*ids, special(tokenizer, stop), *tokenizer.encode("late", add_special_tokens=False)]
        options: dict[str, Any] = {
            "stop": ["never", stop],
            "include_stop_str_in_output": keep,
            "skip_special_tokens": not shown,
        }
        text, found, count = run(tokenizer, more, rng, **options)
        assert found == stop
        if (
            tokenizer.decoding_stages is not None
        ):  # else the text, and with it the end of a shown token, comes at the end
            assert count == len(ids) + 1
        before = tokenizer.decode(more[: len(ids) + shown], skip_special_tokens=not shown).partition(stop)[0]
        assert text == before + (stop if keep else "")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("stop", ["fox</s>", "</s>jumps", "x</s>jum", "<s></s>", "fox</s><s>jumps"])
def test_a_stop_string_may_hold_special_tokens_among_other_text(
    stop: str, keep: bool, rng: np.random.Generator
) -> None:
    tokenizer = Tokenizer(byte_level())
    before, after = "the quick brown fox", "jumps over</s>"
    specials = [piece for piece in ("</s>", "<s>", "</s>") if piece in stop]
    middle = "<s></s>" if stop == "<s></s>" else "".join(sorted(set(specials)))
    whole = before + middle + after
    ids = tokenizer.encode(whole, add_special_tokens=False)
    start = whole.index(stop)
    text, found, _ = run(tokenizer, ids, rng, stop=stop, include_stop_str_in_output=keep)
    assert (text, found) == (whole[:start] + (stop if keep else ""), stop)
    # Without one of its tokens it is no match, and nothing of what was held back is lost.
    ids = tokenizer.encode(before + after, add_special_tokens=False)
    assert run(tokenizer, ids, rng, stop=stop)[:2] == (before + "jumps over", None)


def test_stop_strings_of_both_kinds_end_the_text_at_the_first(rng: np.random.Generator) -> None:
    """Against the definition, on random texts with special tokens strewn in."""
    tokenizer = Tokenizer(byte_level())
    for _ in range(300):
        parts = [str(rng.choice([*SPECIAL, "a", "ab", "b", "é", "🎉"])) for _ in range(rng.integers(1, 15))]
        ids = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]
        spelled = "".join(parts)
        places: list[int] = []
        at = 0
        for part in parts:
            places += [] if part in SPECIAL else range(at, at + len(part))
            at += len(part)
        shown = "".join(spelled[place] for place in places)
        with_special, plain = (
            str(rng.choice([*SPECIAL, "a</s>", "</s><s>", "<s>é"])),
            str(rng.choice(["ab", "éa", "bb🎉"])),
        )
        ends = [(found + len(with_special), found, with_special)] if (found := spelled.find(with_special)) >= 0 else []
        if (found := shown.find(plain)) >= 0:
            ends.append((places[found + len(plain) - 1] + 1, places[found], plain))
        text, stop, _ = run(tokenizer, ids, rng, stop=[with_special, plain])
        if not ends:
            assert (text, stop) == (shown, None), parts
        else:
            _, start, expected = min(ends)
            assert (text, stop) == ("".join(spelled[place] for place in places if place < start), expected), parts


@pytest.mark.parametrize("keep", [False, True])
def test_the_models_own_end_token_is_reported_as_the_stop_string_that_names_it(
    tokenizer: Tokenizer, keep: bool, rng: np.random.Generator
) -> None:
    words = tokenizer.encode("the fox", add_special_tokens=False)
    ids = [*words, special(tokenizer, "</s>")]
    text, found, count = run(tokenizer, ids, rng, ended=True, stop="</s>", include_stop_str_in_output=keep)
    assert (text, found, count) == (tokenizer.decode(words) + ("</s>" if keep else ""), "</s>", len(ids))
    assert run(tokenizer, ids, rng, ended=True, stop="<s>")[1] is None


def test_before_min_tokens_no_special_token_stops(rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(byte_level())
    end = special(tokenizer, "</s>")
    ids = [*tokenizer.encode("the fox", add_special_tokens=False), end, end, end]
    for min_tokens in range(len(ids)):
        _, found, count = run(tokenizer, ids, rng, stop="</s>", min_tokens=min_tokens, max_tokens=None)
        assert (found, count) == ("</s>", max(min_tokens + 1, len(ids) - 2))


@pytest.mark.parametrize("stream", [False, True])
def test_generate_stops_at_it(stream: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    """Over a whole engine, which any token may come out of: the end is where the token is, streamed or not."""
    with LLM(write_null_engine(tmp_path / "engine", end_tokens=False)) as llm:
        stop = None
        while stop is None:  # until a prompt has an answer with a special token
            prompt = [int(token) for token in rng.integers(5, 300, 6)]
            free = llm.generate(prompt, SamplingParams(max_tokens=400, temperature=0))[0].outputs[0]
            stop = next((piece for piece in SPECIAL if special(llm.tokenizer, piece) in free.token_ids), None)
        params = SamplingParams(max_tokens=400, temperature=0, stop=stop)
        outputs = list(llm.generate(prompt, params, stream=True)) if stream else llm.generate(prompt, params)
        stopped = outputs[-1].outputs[0]
        assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
        assert stopped.token_ids[-1] == special(llm.tokenizer, stop)
        assert stopped.text == llm.tokenizer.decode(stopped.token_ids)


@pytest.mark.parametrize("piece", SPECIAL)
def test_a_bad_word_may_name_a_special_token(piece: str, tokenizer: Tokenizer) -> None:
    params = with_bad_word_ids(tokenizer, SamplingParams(bad_words=[piece]))
    assert (special(tokenizer, piece),) in params.bad_word_ids


def test_a_bad_word_may_hold_a_special_token_among_other_text() -> None:
    tokenizer = Tokenizer(byte_level())
    params = with_bad_word_ids(tokenizer, SamplingParams(bad_words=["fox</s>"]))
    assert tuple(tokenizer.encode("fox</s>", add_special_tokens=False)) in params.bad_word_ids

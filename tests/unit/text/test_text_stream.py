"""Stop strings: found wherever the tokens split them, never shown by mistake, never late."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.stop_strings import StopStrings
from inflight.runtime.text.text_stream import TextStream
from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import KINDS, byte_level, random_ids, random_text

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(KINDS[request.param]())


def first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, int] | None:
    """By the definition: the first character at which a stop string is complete, and the longest complete there."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts), end
    return None


def run(
    tokenizer: Tokenizer, params: SamplingParams, ids: list[int], rng: np.random.Generator
) -> tuple[str, str | None]:
    stream, text, start = TextStream(tokenizer, params), "", 0
    while True:
        end = start + int(rng.integers(1, 4))
        delta = stream.push(ids[start:end], finished=end >= len(ids))
        text += delta.text
        if delta.stop_string is not None or end >= len(ids):
            return text, delta.stop_string
        start = end


def random_stops(rng: np.random.Generator, text: str) -> tuple[str, ...]:
    """Stop strings out of the text itself, or nearly so, so that they match and nearly match."""
    stops = []
    for _ in range(rng.integers(1, 4)):
        start = int(rng.integers(0, max(len(text), 1)))
        stop = text[start : start + int(rng.integers(1, 6))] or "x"
        stops.append(stop + "?" if rng.random() < 0.3 else stop)
    return tuple(stops)


@pytest.mark.parametrize("keep", [False, True])
def test_text_is_cut_at_the_first_stop_string_however_it_is_split(
    tokenizer: Tokenizer, rng: np.random.Generator, keep: bool
) -> None:
    for _ in range(200):
        ids = random_ids(rng, tokenizer.backend)
        whole = tokenizer.decode(ids)
        params = SamplingParams(stop=random_stops(rng, whole), include_stop_str_in_output=keep)
        text, stop = run(tokenizer, params, ids, rng)
        found = first_stop(whole, tuple(params.stop))
        if found is None:
            assert (text, stop) == (whole, None)
        else:
            start, end = found
            assert (text, stop) == (whole[: end if keep else start], whole[start:end])


def test_nothing_shown_ever_has_to_be_taken_back(rng: np.random.Generator) -> None:
    for _ in range(300):
        text = random_text(rng)
        stops = random_stops(rng, text)
        found = first_stop(text, stops)
        visible = text if found is None else text[: found[0]]
        matcher, shown = StopStrings(stops), ""
        for character in text:
            shown += matcher.push(character)
            assert visible.startswith(shown)
            if matcher.matched is not None:
                break
        assert shown + matcher.flush() == visible


def test_a_possible_beginning_is_held_back_and_released_when_it_fails() -> None:
    matcher = StopStrings(("</end>",))
    assert matcher.push("a </e") == "a "
    assert matcher.push("nough") == "</enough"
    assert matcher.matched is None


def test_no_more_is_held_back_than_the_longest_beginning(rng: np.random.Generator) -> None:
    for _ in range(300):
        text = random_text(rng)
        stops = random_stops(rng, text)
        matcher, shown = StopStrings(stops), ""
        for count, character in enumerate(text, start=1):
            shown += matcher.push(character)
            if matcher.matched is not None:
                break
            held = text[len(shown) : count]
            assert not held or any(stop.startswith(held) for stop in stops)


def test_of_stop_strings_complete_at_once_the_longest_wins() -> None:
    matcher = StopStrings(("b", "ab", "zzz"))
    assert (matcher.push("xab"), matcher.matched) == ("x", "ab")


def test_tokens_after_a_stop_string_are_not_counted() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("one STOP two three", add_special_tokens=False)
    delta = TextStream(tokenizer, SamplingParams(stop="STOP")).push(ids)
    assert (delta.text, delta.stop_string) == ("one ", "STOP")
    assert tokenizer.decode(ids[: delta.num_tokens]) == "one STOP"


def test_after_a_stop_string_nothing_more_comes() -> None:
    tokenizer = Tokenizer(byte_level())
    stream = TextStream(tokenizer, SamplingParams(stop="STOP"))
    stream.push(tokenizer.encode("one STOP", add_special_tokens=False))
    late = stream.push(tokenizer.encode(" two", add_special_tokens=False), finished=True)
    assert (late.text, late.num_tokens, late.stop_string) == ("", 0, None)


def test_min_tokens_come_before_any_stop_string() -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("x y x y x y", add_special_tokens=False)
    for min_tokens in range(len(ids) + 1):
        stream = TextStream(tokenizer, SamplingParams(stop="x", min_tokens=min_tokens, max_tokens=None))
        text = "".join(stream.push([token_id], finished=False).text for token_id in ids)
        assert text.startswith(tokenizer.decode(ids[:min_tokens]))
        assert "x" not in text[len(tokenizer.decode(ids[:min_tokens])) :]


@pytest.mark.parametrize("asked_for", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_a_stop_token_has_text_only_on_request_and_the_models_end_token_never(keep: bool, asked_for: bool) -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("the fox", add_special_tokens=False)
    stops = ids[-1:] if asked_for else []
    stream = TextStream(tokenizer, SamplingParams(stop_token_ids=stops, include_stop_str_in_output=keep))
    delta = stream.push(ids, ended_by_token=True, finished=True)
    assert delta.text == tokenizer.decode(ids if keep and asked_for else ids[:-1])
    assert delta.num_tokens == len(ids)

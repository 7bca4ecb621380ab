"""Reasoning told apart from the answer: every family, however the text is cut."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.errors import InflightError
from inflight.runtime.text.parsers.reasoning.count import ReasoningTokens
from inflight.runtime.text.parsers.reasoning.families import ALIASES, FAMILIES, OFF, beginning_of, reasoning_family
from inflight.runtime.text.parsers.reasoning.parser import Beginning
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.runtime.text.words import ids_inside_a_text
from tests.models.tiny_tokenizers import KINDS
from tests.unit.text.parsers.answers import cuts, read

pytestmark = pytest.mark.unit

SPANS = sorted(FAMILIES.keys() - {"gpt_oss"})
THINK = FAMILIES["think"]


def soup(rng: np.random.Generator, pieces: list[str], count: int = 12) -> str:
    """Markers, parts of markers and other text in a random order."""
    parts = [piece[: int(rng.integers(1, len(piece) + 1))] for piece in pieces if piece]
    return "".join(rng.choice([*pieces, *parts, " ", "\n", "ab", "é"], int(rng.integers(0, count))))


def words(rng: np.random.Generator) -> str:
    inner = soup(rng, ["<b>", "</", "1 < 2", "\n\n", "th"], 8)
    return f"w{inner}w"


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("beginning", [Beginning.OPEN, Beginning.REASONING])
def test_a_span_is_reasoning_and_what_follows_is_content(
    name: str, beginning: Beginning, rng: np.random.Generator
) -> None:
    family = FAMILIES[name]
    reasoning, answer = words(rng), words(rng)
    before = f"\n{family.opening}\n" if beginning is Beginning.OPEN else ""
    text = f"{before}{reasoning}\n{family.closing}\n\n{answer}"
    for _ in range(20):
        assert read(family.parser(beginning), cuts(rng, text)) == (reasoning, answer, []), text


@pytest.mark.parametrize("name", SPANS)
def test_without_an_opening_marker_all_is_content(name: str, rng: np.random.Generator) -> None:
    family = FAMILIES[name]
    text = f" {words(rng)} {family.opening} {family.closing} {words(rng)}\n"
    for beginning in (Beginning.OPEN, Beginning.CONTENT):
        assert read(family.parser(beginning), cuts(rng, text)) == ("", text, [])


def test_labels_and_the_markers_of_an_answer_are_no_text(rng: np.random.Generator) -> None:
    for name, text in {
        "gemma4": "<|channel>thought\nwhy<|channel>not<channel|>yes",
        "granite3_3": "<think>why<|channel>not</think>\n<response>yes</response>",
        "hunyuan": "<think>\nwhy<|channel>not\n</think>\n<answer>\nyes</answer>",
        "granite": "Here's my thought process: why<|channel>not Here is my response: yes",
    }.items():
        for _ in range(20):
            parsed = read(FAMILIES[name].parser(Beginning.OPEN), cuts(rng, text))
            assert parsed == ("why<|channel>not", "yes", []), name


def test_what_is_cut_off_in_its_reasoning_has_no_content(rng: np.random.Generator) -> None:
    for text in ("<think>a</thi", "<think>\na</thi"):
        assert read(THINK.parser(Beginning.OPEN), cuts(rng, text)) == ("a</thi", "", [])
    assert read(THINK.parser(Beginning.OPEN), iter("<think>a</think>\n\n")) == ("a", "", [])
    assert read(THINK.parser(Beginning.OPEN), iter("<thin")) == ("", "<thin", [])


@pytest.mark.parametrize("name", FAMILIES)
def test_any_text_gives_the_same_parts_however_it_is_cut(name: str, rng: np.random.Generator) -> None:
    family = FAMILIES[name]
    markers = [*family.markers, "analysis", "final", "commentary to=functions.f", "thought\n"]
    for _ in range(200):
        text = soup(rng, markers)
        for beginning in Beginning:
            whole = read(family.parser(beginning), iter([text]))
            assert read(family.parser(beginning), cuts(rng, text)) == whole, text
            assert len(whole[0]) + len(whole[1]) <= len(text)


def test_text_is_held_back_only_while_it_may_be_a_marker() -> None:
    parser = THINK.parser(Beginning.REASONING)
    seen = []
    for text in ("I see </", "p> but", "</think>", "x"):
        shown = "".join(getattr(part, "text", "") for part in parser.push(text))
        seen.append((shown, parser.holds_marker, parser.is_reasoning, parser.is_over))
    assert seen == [
        ("I see", True, True, False),
        (" </p> but", False, True, False),
        ("", False, False, True),
        ("x", False, False, True),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>yes", ("why", "yes")),
        ("<|channel|>final<|message|>yes<|return|>", ("", "yes")),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>c<|end|><|start|>assistant<|channel|>final<|message|>d",
            ("ac", "bd"),
        ),
        ("plain <text>", ("", "plain <text>")),
        ("<|channel|>analysis<|mess", ("", "")),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f "
            '<|constrain|>json<|message|>{"a": "<"}<|call|>',
            (
                "a",
                '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "<"}<|call|>',
            ),
        ),
    ],
)
def test_the_channels_of_harmony(text: str, expected: tuple[str, str], rng: np.random.Generator) -> None:
    for _ in range(20):
        assert read(FAMILIES["gpt_oss"].parser(Beginning.OPEN), cuts(rng, text)) == (*expected, [])


@pytest.mark.parametrize(
    ("name", "prompt", "begun", "beginning"),
    [
        ("think", "<|assistant|>", None, Beginning.OPEN),
        ("think", "think <think> </think> about it<|assistant|>", None, Beginning.OPEN),
        ("think", "<|assistant|><think>\n", None, Beginning.REASONING),
        ("think", "<|assistant|><think>\n\n</think>\n\n", None, Beginning.CONTENT),
        ("think", "<|assistant|><think>Hm", "<think>Hm", Beginning.REASONING),
        ("think", "<|assistant|>Well", "Well", Beginning.CONTENT),
        ("think", "<|assistant|><think>a</think>b", "<think>a</think>b", Beginning.CONTENT),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>", None, Beginning.CONTENT),
        ("gemma4", "<|turn>model\n<|channel>thought\n", None, Beginning.REASONING),
        ("gpt_oss", "<|start|>user<|message|>a<|end|><|start|>assistant", None, Beginning.OPEN),
        ("gpt_oss", "<|start|>assistant<|channel|>final<|message|>We", "We", Beginning.CONTENT),
        ("gpt_oss", "<|start|>assistant<|channel|>analysis<|message|>", None, Beginning.REASONING),
    ],
)
def test_the_prompt_says_what_the_answer_begins_with(
    name: str, prompt: str, begun: str | None, beginning: Beginning
) -> None:
    assert beginning_of(FAMILIES[name], prompt, begun) is beginning


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ content.split('</think>')[-1] }}<think>\n", "think"),
        ("{{- '[THINK]' + each.thinking + '[/THINK]' }}", "mistral"),
        ("<|start|>{{ role }}<|channel|>analysis<|message|>", "gpt_oss"),
        ("Write the reasoning between <think></think> and the answer between <response></response>.", "granite3_3"),
        ("after 'Here is my thought process:' and after 'Here is my response:'", "granite"),
        ("{{ '<seed:think>' }} {{ '</seed:think>' }}", "seed_oss"),
        ("<|im_start|>{{ message.content }}<|im_end|>", None),
        (None, None),
    ],
)
def test_the_chat_template_names_its_family(template: str | None, name: str | None) -> None:
    assert reasoning_family(None, template) is (None if name is None else FAMILIES[name])


def test_names_are_those_of_the_table_and_of_vllm() -> None:
    for name, target in ALIASES.items():
        assert reasoning_family(name, None) is (FAMILIES[target] if target != OFF else None)
    assert reasoning_family("GPT-OSS", "</think>") is FAMILIES["gpt_oss"]
    assert reasoning_family("none", "</think>") is None
    with pytest.raises(InflightError, match="no reasoning parser verse"):
        reasoning_family("verse", None)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_reasoning_is_counted_in_tokens_however_they_come(kind: str, rng: np.random.Generator) -> None:
    tokenizer = Tokenizer(KINDS[kind]())
    for _ in range(30):
        texts = ("<think>", words(rng), "</think>", words(rng)) if rng.random() < 0.5 else ("", "", "", words(rng))
        spelled = [ids_inside_a_text(tokenizer, part) for part in texts]
        ids = [token for part in spelled for token in part]
        counter = ReasoningTokens(THINK.parser(Beginning.OPEN), tokenizer)
        at = 0
        while at < len(ids):
            end = at + int(rng.integers(1, 5))
            counter.push(ids[at:end], finished=end >= len(ids))
            at = end
        assert counter.count == len(spelled[1]), texts
    cut_off = ReasoningTokens(THINK.parser(Beginning.REASONING), tokenizer)
    ids = ids_inside_a_text(tokenizer, "so </thin")
    assert cut_off.push(ids, finished=True) == len(ids)


def test_a_token_before_the_marker_that_looks_like_its_beginning_counts() -> None:
    tokenizer = Tokenizer(KINDS["byte_level"]())
    ids = [token for text in ("so", "<", "</", "<") for token in tokenizer.encode(text, False)]
    marker = tokenizer.encode("</think>", False)
    counter = ReasoningTokens(THINK.parser(Beginning.REASONING), tokenizer)
    assert counter.push([*ids, *marker, *tokenizer.encode("yes", False)], finished=True) == len(ids)

"""Reasoning told apart from the answer: every family, however the text is cut."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.errors import InflightError
from inflight.runtime.text.parsers.reasoning.families import ALIASES, FAMILIES, OFF, beginning_of, reasoning_family
from inflight.runtime.text.parsers.reasoning.parser import Beginning
from tests.unit.text.parsers.joined import cut, parse, soup

pytestmark = pytest.mark.unit

SPANS = sorted(FAMILIES.keys() - {"gpt_oss"})
THINK = FAMILIES["think"]


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
        assert parse(family.parser(beginning), cut(text, rng)) == (reasoning, answer, []), text


@pytest.mark.parametrize("name", SPANS)
def test_without_an_opening_marker_all_is_content(name: str, rng: np.random.Generator) -> None:
    family = FAMILIES[name]
    text = f" {words(rng)} {family.opening} {family.closing} {words(rng)}\n"
    for beginning in (Beginning.OPEN, Beginning.CONTENT):
        assert parse(family.parser(beginning), cut(text, rng)) == ("", text, [])


def test_labels_and_the_markers_of_an_answer_are_no_text(rng: np.random.Generator) -> None:
    for name, text in {
        "gemma4": "<|channel>thought\nwhy<|channel>not<channel|>yes",
        "granite3_3": "<think>why<|channel>not</think>\n<response>yes</response>",
        "hunyuan": "<think>\nwhy<|channel>not\n</think>\n<answer>\nyes</answer>",
        "granite": "Here's my thought process: why<|channel>not Here is my response: yes",
    }.items():
        for _ in range(20):
            parsed = parse(FAMILIES[name].parser(Beginning.OPEN), cut(text, rng))
            assert parsed == ("why<|channel>not", "yes", []), name


def test_what_is_cut_off_in_its_reasoning_has_no_content(rng: np.random.Generator) -> None:
    for text in ("<think>a</thi", "<think>\na</thi"):
        assert parse(THINK.parser(Beginning.OPEN), cut(text, rng)) == ("a</thi", "", [])
    assert parse(THINK.parser(Beginning.OPEN), "<think>a</think>\n\n") == ("a", "", [])
    assert parse(THINK.parser(Beginning.OPEN), ["<thin"]) == ("", "<thin", [])


@pytest.mark.parametrize("name", FAMILIES)
def test_any_text_gives_the_same_parts_however_it_is_cut(name: str, rng: np.random.Generator) -> None:
    family = FAMILIES[name]
    markers = [*family.markers, "analysis", "final", "commentary to=functions.f", "thought\n"]
    for _ in range(200):
        text = soup(rng, markers)
        for beginning in Beginning:
            whole = parse(family.parser(beginning), [text])
            assert parse(family.parser(beginning), cut(text, rng)) == whole, text
            assert len(whole[0]) + len(whole[1]) <= len(text)


def test_text_is_held_back_only_while_it_may_be_a_marker() -> None:
    parser = THINK.parser(Beginning.REASONING)
    assert [part.text for part in parser.push("I see </") if hasattr(part, "text")] == ["I see"]
    assert parser.holds_marker and parser.is_reasoning
    assert [part.text for part in parser.push("p> but") if hasattr(part, "text")] == [" </p> but"]
    assert not parser.holds_marker
    assert list(parser.push("</think>x")) and parser.is_over


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
        assert parse(FAMILIES["gpt_oss"].parser(Beginning.OPEN), cut(text, rng)) == (*expected, [])


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

"""Texts, questions and windows of tokens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.accuracy.material import DEFAULT_TEXT, DEMO_QUESTIONS, Question, read_material, read_rows
from inflight.accuracy.windows import cut_windows, first_scored, text_tokens
from inflight.errors import InflightError
from tests.models.tiny_tokenizers import KINDS, random_text
from tests.paths import ROOT

pytestmark = pytest.mark.unit


def test_without_a_text_it_is_our_own(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "a?", "answer": "b"}\n')
    material = read_material((), (questions,), demo=True)
    (text,) = material.texts
    assert text.content == DEFAULT_TEXT.read_text(encoding="utf-8")
    assert text.sha256 == hashlib.sha256((ROOT / "assets/evaluation/text.txt").read_bytes()).hexdigest()
    assert [len(each.questions) for each in material.questions] == [1, 200]


def test_the_demo_questions_have_the_right_answers() -> None:
    rows = json.loads((ROOT / "assets/demo-model/prompts.json").read_text())
    (read,) = read_rows(DEMO_QUESTIONS).questions
    assert [(each.prompt, *each.answers) for each in read.questions] == [(r["question"], r["reference"]) for r in rows]


def test_rows_of_a_list_and_of_lines_are_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    rows: list[dict[str, Any]] = [
        {"text": random_text(rng), "source": "x"},
        {"question": random_text(rng), "answer": random_text(rng)},
        {"prompt": random_text(rng), "answer": [random_text(rng), random_text(rng)]},
        {"text": random_text(rng)},
    ]
    lines, whole = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    lines.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    whole.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for path in (lines, whole):
        material = read_rows(path)
        assert [text.content for text in material.texts] == [f"{rows[0]['text']}\n\n{rows[3]['text']}"]
        assert [each.questions for each in material.questions] == [
            (
                Question(rows[1]["question"], (rows[1]["answer"],), chat=True),
                Question(rows[2]["prompt"], tuple(rows[2]["answer"]), chat=False),
            )
        ]
        assert read_material((), (path,), demo=False).texts == material.texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "a"}', "row 1"),
        ('{"text": "a"}\n{"question": "a", "answer": 3}', "row 2"),
        ('{"text": "a"}\n["a"]', "row 2"),
        ('{"prompt": "a", "answer": []}', "row 1"),
        ("{", "neither a JSON list nor JSON lines"),
        ('{"text": "a"}\n\n{"text" "b"}', "nor JSON lines: line 3: Expecting ':' delimiter: column 9"),
        ("", "holds no texts and no questions"),
        ("[]", "holds no texts and no questions"),
        ("plain text", "neither a JSON list nor JSON lines"),
    ],
)
def test_rows_that_are_neither_text_nor_question_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(InflightError, match=message) as error:
        read_rows(path)
    assert str(path) in error.value.message


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InflightError, match="not UTF-8"):
        read_material((path,), (), demo=False)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_before_a_text_are_found_and_those_of_texts_joined(kind: str, rng: np.random.Generator) -> None:
    backend = KINDS[kind]()
    texts = [random_text(rng) for _ in range(3)]

    def encode(text: str, add_special_tokens: bool) -> list[int]:
        return list(backend.encode(text, add_special_tokens=add_special_tokens).ids)

    before, tokens = text_tokens(texts, encode)
    assert [*before, *encode(texts[0], False)] == encode(texts[0], True)[: len(before) + len(encode(texts[0], False))]
    assert tokens == [token for text in texts for token in encode(text, False)]


def test_windows_hold_each_token_once_but_the_rest(rng: np.random.Generator) -> None:
    before = rng.integers(100, size=int(rng.integers(3))).tolist()
    tokens, window = list(range(int(rng.integers(20, 500)))), int(rng.integers(8, 20))
    windows = cut_windows(before, tokens, window)
    joined = [token for each in windows for token in each[len(before) :]]
    assert all(len(each) == window and list(each[: len(before)]) == before for each in windows)
    assert joined == tokens[: len(joined)] and len(tokens) - len(joined) < window - len(before)


def test_a_short_text_is_one_window_and_a_shorter_one_refused() -> None:
    (window,) = cut_windows([1], list(range(10)), 1024)
    assert len(window) == 11 and first_scored(window) == 5
    with pytest.raises(InflightError, match="3 tokens of text"):
        cut_windows([], [1, 2, 3], 1024)
    with pytest.raises(InflightError, match=r"(?s)window of 5 tokens has room for 3 of the text.*larger --window"):
        cut_windows([1, 2], list(range(10)), 5)

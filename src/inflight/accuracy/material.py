"""What an engine is measured on: texts to predict, and questions with their answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflight.errors import InflightError
from inflight.files.json_file import JsonError, parse_json, parse_json_lines

# Of the project's own pages and code; beside it, the questions of the demo model. Both are links where this is a
# checkout, and files where it is installed.
DEFAULT_TEXT = Path(__file__).with_name("text.txt")
DEMO_QUESTIONS = Path(__file__).with_name("demo_questions.json")
_BUILT_IN = {DEFAULT_TEXT: "inflight's own text", DEMO_QUESTIONS: "the demo model's questions"}

_FORMS = 'Each is {"text": ...}, or {"question": ..., "answer": ...}, or {"prompt": ..., "answer": ...}.'


@dataclass(frozen=True, slots=True)
class Text:
    """A text under the name of its file, without the folders, and the SHA-256 of its bytes."""

    name: str
    sha256: str
    content: str


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and the answers that are right. `chat`: the prompt is a user's message, for the model's chat template
    where it has one."""

    prompt: str
    answers: tuple[str, ...]
    chat: bool


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of one file, under its name, and the SHA-256 of its bytes."""

    name: str
    sha256: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that one evaluation reads. Texts are scored one after the other, as one stream of tokens."""

    texts: tuple[Text, ...] = ()
    questions: tuple[Questions, ...] = ()


def read_text(path: Path) -> Text:
    """A file of UTF-8. Raises InflightError for other bytes, OSError where it cannot be read."""
    data = path.read_bytes()
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InflightError(f"{path} is not UTF-8 text (byte {error.start}).", "Give a plain text file.") from error
    return Text(_name(path), hashlib.sha256(data).hexdigest(), content)


def read_rows(path: Path) -> Material:
    """A JSON list of objects, or a JSON object a line. What has "text" is text; what has "question" (a user's message)
    or "prompt" (completed as it is) is a question, and its answer is "reference" or "answer": a string, or a list of
    those that are right.

    Raises InflightError naming the file and the row, OSError where the file cannot be read.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    rows = _rows(path, data)
    if not rows:
        raise InflightError(f"{path} holds no texts and no questions.", _FORMS)
    texts, questions = [], []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            texts.append(row["text"])
        else:
            questions.append(_question(path, number, row))
    return Material(
        (Text(_name(path), digest, "\n\n".join(texts)),) if texts else (),
        (Questions(_name(path), digest, tuple(questions)),) if questions else (),
    )


def read_material(texts: Sequence[Path], rows: Sequence[Path], demo: bool) -> Material:
    """The texts and rows of these files; without any text, the default one. demo: the demo model's questions too."""
    parts = [*(Material((read_text(path),)) for path in texts), *map(read_rows, rows)]
    if not any(part.texts for part in parts):
        parts.insert(0, Material((read_text(DEFAULT_TEXT),)))
    if demo:
        parts.append(read_rows(DEMO_QUESTIONS))
    return Material(
        tuple(text for part in parts for text in part.texts),
        tuple(questions for part in parts for questions in part.questions),
    )


def _name(path: Path) -> str:
    return _BUILT_IN.get(path, path.name)


def _rows(path: Path, data: bytes) -> list[Any]:
    try:
        if data.lstrip().startswith(b"["):
            rows: list[Any] = parse_json(data)
            return rows
        return [row for _, row in parse_json_lines(data)]
    except JsonError as error:
        raise InflightError(f"{path} is neither a JSON list nor JSON lines: {error}.", _FORMS) from error


def _question(path: Path, number: int, row: Any) -> Question:
    if not isinstance(row, dict):
        raise InflightError(f"{path}: row {number} is not a JSON object.", _FORMS)
    key = next((key for key in ("question", "prompt") if isinstance(row.get(key), str)), None)
    answer = row.get("reference", row.get("answer"))
    answers = [answer] if isinstance(answer, str) else answer
    if key is None or not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
        raise InflightError(f"{path}: row {number} is neither a text nor a question with an answer.", _FORMS)
    return Question(row[key], tuple(answers), chat=key == "question")

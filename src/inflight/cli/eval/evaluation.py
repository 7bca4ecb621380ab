"""One evaluation: an engine, what it is compared with, what it is measured on, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from inflight.accuracy.figures import TextFigures, share
from inflight.accuracy.material import Material
from inflight.accuracy.record import Figure
from inflight.accuracy.windows import cut_windows, first_scored, text_tokens
from inflight.cli.eval.answers import answer_questions, is_right
from inflight.cli.eval.scoring import check_engine, check_logits, open_engine, score_window
from inflight.errors import InflightError
from inflight.progress import progress_bar
from inflight.runtime.executors.base import Executor
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class Settings:
    """window: tokens of a window, the engines' max_seq_len permitting. tokens: the most of text that are read, None for
    all. max_tokens: of an answer."""

    window: int
    tokens: int | None
    max_tokens: int
    threads: int | None = None


@dataclass(slots=True)
class Evaluation:
    """What was measured. `window` is the one that was used; `scored` tokens were predicted, in `windows` windows."""

    window: int = 0
    windows: int = 0
    scored: int = 0
    questions: int = 0
    figures: dict[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Side:
    """An open engine and its tokenizer."""

    path: Path
    executor: Executor
    tokenizer: Tokenizer


def evaluate(engine: Path, against: Path | None, material: Material, settings: Settings) -> Evaluation:
    """Measure the engine in the directory `engine`, and with `against`, another engine's, compare the two.

    Raises EngineError where one cannot be loaded or hands out no logits, InflightError where they do not read the same
    text as the same tokens, or the text is too short.
    """
    result = Evaluation()
    with _opened(engine, settings.threads) as mine, ExitStack() as stack:
        theirs = None if against is None else stack.enter_context(_opened(against, settings.threads))
        if material.texts and settings.tokens != 0:
            _score(result, mine, theirs, material, settings)
        if material.questions:
            _ask(result, mine, theirs, material, settings)
    return result


@contextmanager
def _opened(directory: Path, threads: int | None) -> Iterator[_Side]:
    check_engine(directory)
    tokenizer = load_tokenizer(directory / "tokenizer")
    executor = open_engine(directory, threads)
    try:
        yield _Side(directory, executor, tokenizer)
    finally:
        executor.close()


def _score(result: Evaluation, mine: _Side, theirs: _Side | None, material: Material, settings: Settings) -> None:
    sides = [mine] if theirs is None else [mine, theirs]
    for side in sides:
        check_logits(side.executor)
    before, tokens = _tokens(mine, material, settings.tokens)
    if theirs is not None:
        _check_same_tokens(mine, theirs, (before, tokens) == _tokens(theirs, material, settings.tokens))
    longest = min(side.executor.manifest.limits.max_seq_len for side in sides)
    windows = cut_windows(before, tokens, min(settings.window, longest))
    collected = TextFigures(theirs is not None)
    scored = sum(len(window) - first_scored(window) for window in windows)
    with progress_bar("Scoring text", scored) as advance:
        for window in windows:
            reference = None if theirs is None else theirs.executor
            collected.windows.append(score_window(mine.executor, reference, window, advance))
    result.window, result.windows, result.scored = len(windows[0]), len(windows), scored
    result.figures |= collected.figures()


def _tokens(side: _Side, material: Material, most: int | None) -> tuple[list[int], list[int]]:
    encode: Callable[[str, bool], list[int]] = side.tokenizer.encode
    before, tokens = text_tokens([text.content for text in material.texts], encode)
    return before, tokens[:most]


def _check_same_tokens(mine: _Side, theirs: _Side, same_text: bool) -> None:
    sizes = [side.executor.manifest.model.vocab_size for side in (mine, theirs)]
    if sizes[0] != sizes[1] or not same_text:
        why = f"their vocabularies have {sizes[0]} and {sizes[1]} tokens" if sizes[0] != sizes[1] else "other tokens"
        raise InflightError(
            f"{mine.path} and {theirs.path} do not read the text as the same tokens ({why}), so their distributions "
            "cannot be compared.",
            "Give --against the model that the engine was made from, or another engine of that.",
        )


def _ask(result: Evaluation, mine: _Side, theirs: _Side | None, material: Material, settings: Settings) -> None:
    questions = [question for each in material.questions for question in each.questions]

    def answers(side: _Side) -> list[str]:
        return answer_questions(side.executor, side.tokenizer, questions, settings.max_tokens)

    def right(given: list[str]) -> Figure:
        return share([is_right(answer, question) for answer, question in zip(given, questions, strict=True)])

    own = answers(mine)
    found: Mapping[str, Figure] = {"exact_match": right(own)}
    if theirs is not None:
        other = answers(theirs)
        same = share([one == another for one, another in zip(own, other, strict=True)])
        found = {**found, "exact_match_reference": right(other), "same_answers": same}
    result.questions = len(questions)
    result.figures |= found

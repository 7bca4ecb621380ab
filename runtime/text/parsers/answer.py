"""The parts of the answers of one request, as their text grows. Endpoints of any shape use it alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from inflight.runtime.text.completion import Completion, CompletionDelta
from inflight.runtime.text.parsers.marked_text import may_begin
from inflight.runtime.text.parsers.parts import Content, OutputParser, Part, Reasoning, ToolCallArguments, ToolCallStart
from inflight.runtime.text.parsers.tool_format import openai_call_id
from inflight.runtime.text.tokenizer import Tokenizer


class PlainText:
    """For answers in which nothing is told apart."""

    def push(self, text: str) -> Iterator[Part]:
        if text:
            yield Content(text)

    def finish(self) -> Iterator[Part]:
        return iter(())


class Chain:
    """Two parsers, one behind the other: what the first calls content is what the second reads."""

    def __init__(self, first: OutputParser, second: OutputParser) -> None:
        self._first = first
        self._second = second

    def push(self, text: str) -> Iterator[Part]:
        return self._through(self._first.push(text))

    def finish(self) -> Iterator[Part]:
        yield from self._through(self._first.finish())
        yield from self._second.finish()

    def _through(self, parts: Iterable[Part]) -> Iterator[Part]:
        for part in parts:
            if isinstance(part, Content):
                yield from self._second.push(part.text)
            else:
                yield part


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How the answers of one request are told apart.

    `parser`: a new one, for one sequence. `markers`: the texts that it looks for; those of them that are special tokens
    are kept in the text that it reads (see RequestText). `most_calls`: calls beyond so many are left out; None: none
    is. `new_call_id`: an id for a call to which the model gives none.
    """

    parser: Callable[[], OutputParser] = PlainText
    markers: tuple[str, ...] = ()
    most_calls: int | None = None
    new_call_id: Callable[[], str] = openai_call_id


class AnswerParts:
    """The parts of one sequence, from its deltas or from all of it at once; the joined parts are the same.

    Every ToolCallStart has an id. Content and reasoning never show a special token that the text hides.
    """

    def __init__(self, form: AnswerFormat, tokenizer: Tokenizer, skips_special_tokens: bool) -> None:
        self._form = form
        self._parser = form.parser()
        found = {token_id: text for text in form.markers if (token_id := tokenizer.token_id(text)) is not None}
        # By its id: a marker that is a special token and so would not be shown.
        self._hidden = {
            token_id: text
            for token_id, text in found.items()
            if skips_special_tokens and tokenizer.special_piece(token_id) is not None
        }
        self._without: dict[type[Part], _Without] = {}
        self.num_calls = 0

    def push(self, news: Completion | CompletionDelta) -> list[Part]:
        """The parts that `news` completes, all of them if it has a finish reason."""
        for token_id in news.token_ids:
            if token_id in self._hidden:
                for kind in (Content, Reasoning):
                    self._without.setdefault(kind, _Without()).add(self._hidden[token_id])
        parts = list(self._parser.push(news.text))
        is_over = news.finish_reason is not None
        if is_over:
            parts += self._parser.finish()
        return [*self._shown(parts), *(self._rest() if is_over else ())]

    def _shown(self, parts: Iterable[Part]) -> Iterator[Part]:
        for part in parts:
            if isinstance(part, Content | Reasoning):
                yield from self._clean(part)
            elif self._form.most_calls is None or part.index < self._form.most_calls:
                yield self._named(part)

    def _named(self, part: ToolCallStart | ToolCallArguments) -> Part:
        if isinstance(part, ToolCallArguments):
            return part
        self.num_calls += 1
        return ToolCallStart(part.index, part.name, part.call_id or self._form.new_call_id())

    def _clean(self, part: Content | Reasoning) -> Iterator[Part]:
        without = self._without.get(type(part))
        text = part.text if without is None else without.push(part.text)
        if text:
            yield type(part)(text)

    def _rest(self) -> Iterator[Part]:
        for kind, without in self._without.items():
            if text := without.held:
                assert kind in (Content, Reasoning)
                yield Content(text) if kind is Content else Reasoning(text)


class _Without:
    """Leaves out some texts, wherever they come to stand."""

    def __init__(self) -> None:
        self._texts: tuple[str, ...] = ()
        self.held = ""

    def add(self, text: str) -> None:
        if text not in self._texts:
            self._texts += (text,)

    def push(self, text: str) -> str:
        text = self.held + text
        for each in self._texts:
            text = text.replace(each, "")
        end = len(text) - may_begin(text, self._texts)
        self.held = text[end:]
        return text[:end]

"""Runs what is appended to one state, in its order, on a thread of its own while there is something to run."""

from __future__ import annotations

import contextvars
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from inflight.errors import InflightError
from inflight.lang.backends.base import Backend
from inflight.lang.choices import mean_logprob
from inflight.lang.expressions import Expression, Gen, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, Select, Text, parts
from inflight.lang.options import GenOptions
from inflight.lang.transcript import Transcript


class Interpreter:
    """The text, messages and variables of a state.

    What is submitted runs while the program goes on; `value`, `whole_text` and the others that read wait for it. The
    first failure ends the state: nothing that was appended after it runs, and whoever reads gets its error.
    `ended` says that nothing will be appended any more, for whoever streams.
    """

    def __init__(self, backend: Backend, defaults: GenOptions, stream: bool) -> None:
        self.variables: dict[str, Any] = {}
        self.meta_info: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.stream = stream
        self._backend = backend
        self._defaults = defaults
        # Guards all that follows, and says when any of it has changed.
        self._news = threading.Condition()
        self._transcript = Transcript()
        self._pending: deque[Expression] = deque()
        # Names that something submitted will set.
        self._awaited: Counter[str] = Counter()
        self._partial: dict[str, str] = {}
        self._running = False
        self._ended = False
        self._forks: list[Interpreter] = []
        self._forked_at = 0

    def submit(self, value: object) -> None:
        """Append an expression or a text. Raises InflightError for what is neither."""
        expressions = parts(value)
        with self._news:
            if self.error is not None:
                raise self.error
            if not self._running and all(isinstance(each, Text) for each in expressions):
                # Nothing to wait for: it needs no thread.
                self._transcript.text += "".join(each.value for each in expressions if isinstance(each, Text))
                self._news.notify_all()
                return
            self._awaited.update(name for each in expressions if (name := _sets(each)) is not None)
            self._pending += expressions
            if not self._running:
                self._running = True
                run = partial(contextvars.copy_context().run, self._run)
                threading.Thread(target=run, name="inflight-program", daemon=True).start()

    def end(self) -> None:
        """Nothing will be appended any more, here and to what was forked from it."""
        with self._news:
            self._ended = True
            self._news.notify_all()
        for fork in self._forks:
            fork.end()

    def fail(self, error: BaseException) -> None:
        """End with an error that the program itself raised."""
        with self._news:
            self.error = self.error or error
        self.end()

    def sync(self) -> None:
        """Wait until all that was submitted has run. Raises the error that ended it."""
        with self._news:
            self._wait_for(lambda: not self._running)

    def sync_all(self) -> None:
        """`sync`, here and of all that was forked from it."""
        self.sync()
        for fork in self._forks:
            fork.sync_all()

    def whole_text(self) -> str:
        self.sync()
        return self._transcript.text

    def messages(self) -> list[dict[str, str]]:
        self.sync()
        return [dict(message) for message in self._transcript.messages]

    def value(self, name: str, of: dict[str, Any] | None = None) -> Any:
        """A variable, or what `of` has of it. Raises KeyError where nothing sets it."""
        with self._news:
            self._wait_for(lambda: not self._awaited[name])
            found = self.variables if of is None else of
            if name not in found:
                raise KeyError(f"{name!r}: the program has set {', '.join(map(repr, found)) or 'nothing'}")
            return found[name]

    def set_variable(self, name: str, value: Any) -> None:
        with self._news:
            self.variables[name] = value
            self._news.notify_all()

    def fork(self, count: int) -> list[Interpreter]:
        """Copies that begin with all that this one has; its text is computed once."""
        self.sync()
        if count > 1 and self._transcript.text:
            self._backend.cache_prefix(self._transcript.place)
        forks = [Interpreter(self._backend, self._defaults, self.stream) for _ in range(count)]
        for fork in forks:
            fork._transcript = self._transcript.copy()
            fork._forked_at = len(self._transcript.text)
            fork.variables, fork.meta_info = dict(self.variables), dict(self.meta_info)
        self._forks += forks
        return forks

    def text_since_fork(self) -> str:
        return self.whole_text()[self._forked_at :]

    def pieces(self, name: str | None) -> Iterator[str]:
        """The text, or that of a variable, in parts as it grows. Raises the error that ends it."""
        shown = 0
        while True:
            with self._news:
                while len(text := self._so_far(name)) <= shown and not self._is_complete(name):
                    self._news.wait()
                complete = self._is_complete(name)
                if complete and self.error is not None:
                    raise self.error
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
            if complete and len(self._so_far(name)) <= shown:
                return

    def _so_far(self, name: str | None) -> str:
        if name is None:
            return self._transcript.text
        value = self._partial.get(name, self.variables.get(name, ""))
        return value if isinstance(value, str) else ""

    def _is_complete(self, name: str | None) -> bool:
        is_set = name is not None and name in self.variables and not self._awaited[name]
        return is_set or self.error is not None or (self._ended and not self._running)

    def _wait_for(self, done: Callable[[], bool]) -> None:
        """The caller has the lock."""
        while self.error is None and not done():
            self._news.wait()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        """On the thread: until nothing is left."""
        while True:
            with self._news:
                if not self._pending or self.error is not None:
                    self._pending.clear()
                    self._running = False
                    self._news.notify_all()
                    return
                expression = self._pending.popleft()
            try:
                self._execute(expression)
            except BaseException as error:
                with self._news:
                    self.error = error
                continue
            with self._news:
                if (name := _sets(expression)) is not None:
                    self._awaited[name] -= 1
                self._news.notify_all()

    def _execute(self, expression: Expression) -> None:
        if isinstance(expression, Text):
            self._append(expression.value)
        elif isinstance(expression, Gen):
            self._generate(expression)
        elif isinstance(expression, Select):
            self._select(expression)
        elif isinstance(expression, RoleBegin | RoleEnd):
            roles, transcript = self._backend.roles, self._transcript
            with self._news:
                change = transcript.begin_message if isinstance(expression, RoleBegin) else transcript.end_message
                change(expression.role, roles)
                self._news.notify_all()
        elif isinstance(expression, ScopeBegin):
            self._transcript.begin_scope(expression.name)
        elif isinstance(expression, ScopeEnd):
            self.variables[expression.name] = self._transcript.end_scope(expression.name)

    def _append(self, text: str) -> None:
        with self._news:
            self._transcript.text += text
            self._news.notify_all()

    def _generate(self, expression: Gen) -> None:
        options = expression.options.over(self._defaults)
        count, name = options.n or 1, expression.name
        if self.stream and count > 1:
            raise InflightError("n above 1 cannot be streamed: the first text goes on.", "Run it without stream=True.")
        if not self.stream:
            answers = self._backend.generate(self._transcript.place, options)
            self._append(answers[0].text)
            texts, infos = [each.text for each in answers], [each.meta_info for each in answers]
            self._set(name, texts if count > 1 else texts[0], infos if count > 1 else infos[0])
            return
        text, info = "", {}
        for part in self._backend.stream(self._transcript.place, options):
            text, info = text + part.text, part.meta_info
            if name is not None:
                self._partial[name] = text
            self._append(part.text)
        self._partial.pop(name or "", None)
        self._set(name, text, info)

    def _select(self, expression: Select) -> None:
        method, choices = expression.method, list(expression.choices)
        scores = self._backend.score(self._transcript.place, choices, method.requires_unconditional_logprobs)
        decision = method(
            choices=choices,
            normalized_prompt_logprobs=[mean_logprob(tokens) for tokens in scores.tokens],
            input_token_logprobs=scores.tokens,
            output_token_logprobs=[[] for _ in choices],
            unconditional_token_logprobs=scores.unconditional,
        )
        self._append(decision.decision)
        self._set(expression.name, decision.decision, decision.meta_info)

    def _set(self, name: str | None, value: Any, meta_info: Any) -> None:
        if name is not None:
            with self._news:
                self.variables[name] = value
                self.meta_info[name] = meta_info


def _sets(expression: Expression) -> str | None:
    """The variable that it sets."""
    return expression.name if isinstance(expression, (Gen, Select, ScopeEnd)) else None

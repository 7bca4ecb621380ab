"""What a program is given: the state that it appends to, and forks of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from inflight.errors import InflightError
from inflight.lang.expressions import Expression, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, role
from inflight.lang.interpreter import Interpreter


class ProgramState:
    """`s += ...` appends; `s["name"]` waits for a variable and returns it.

    Everything that reads raises the error of what went wrong before. `ret_value` is what the function returned.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self.ret_value: Any = None

    def __iadd__(self, other: str | Expression) -> ProgramState:
        self._interpreter.submit(other)
        return self

    def __getitem__(self, name: str) -> Any:
        return self._interpreter.value(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_var(name, value)

    def __contains__(self, name: str) -> bool:
        return name in self._interpreter.variables

    def __repr__(self) -> str:
        return f"ProgramState({self.text()})"

    def get_var(self, name: str) -> Any:
        return self[name]

    def set_var(self, name: str, value: Any) -> None:
        self._interpreter.set_variable(name, value)

    def get_meta_info(self, name: str) -> Any:
        """What is known of how a variable was generated or selected: docs/formats/programs.md has its keys."""
        return self._interpreter.value(name, self._interpreter.meta_info)

    def text(self) -> str:
        """All of the text."""
        return self._interpreter.whole_text()

    def messages(self) -> list[dict[str, str]]:
        """The messages, with roles and contents, as OpenAI's API has them."""
        return self._interpreter.messages()

    def sync(self) -> None:
        """Wait until all that was appended has run."""
        self._interpreter.sync()

    def error(self) -> BaseException | None:
        """What went wrong; None when all that was appended has run."""
        try:
            self._interpreter.sync()
        except BaseException as error:
            return error
        return None

    def system(self, expression: str | Expression | None = None) -> AbstractContextManager[None] | Expression:
        """Append a message, or without an argument begin one that ends with the `with` block."""
        return self._role("system", expression)

    def user(self, expression: str | Expression | None = None) -> AbstractContextManager[None] | Expression:
        """As `system`."""
        return self._role("user", expression)

    def assistant(self, expression: str | Expression | None = None) -> AbstractContextManager[None] | Expression:
        """As `system`."""
        return self._role("assistant", expression)

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """What is appended within it becomes a variable."""
        self._interpreter.submit(ScopeBegin(name))
        yield
        self._interpreter.submit(ScopeEnd(name))

    def fork(self, size: int = 1, position_ids_offset: list[int] | None = None) -> ProgramStateGroup:
        """`size` states that begin with all that this one has, and go on by themselves, at the same time."""
        if position_ids_offset is not None:
            raise InflightError("position_ids_offset is not supported: a token's position is its place in the text.")
        return ProgramStateGroup([ProgramState(each) for each in self._interpreter.fork(int(size))], self)

    @contextmanager
    def copy(self, position_ids_offset: list[int] | None = None) -> Iterator[ProgramState]:
        """One fork, joined at the end of the `with` block."""
        group = self.fork(1, position_ids_offset)
        try:
            yield group[0]
        finally:
            group.join()

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """The text, or that of a variable, in parts; of a run without stream=True in one."""
        if self._interpreter.stream:
            yield from self._interpreter.pieces(var_name)
        else:
            yield self.text() if var_name is None else self[var_name]

    async def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[str | tuple[str, Any]]:
        """text_iter for an event loop; with return_meta_data each part comes with the variable's meta_info so far."""
        pieces = self.text_iter(var_name)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            meta_info = self._interpreter.meta_info.get(var_name or "")
            yield (piece, meta_info) if return_meta_data else piece

    def _role(self, name: str, expression: str | Expression | None) -> AbstractContextManager[None] | Expression:
        if expression is None:
            return self._role_scope(name)
        message = role(name, expression)
        self._interpreter.submit(message)
        return message

    @contextmanager
    def _role_scope(self, name: str) -> Iterator[None]:
        self._interpreter.submit(RoleBegin(name))
        yield
        self._interpreter.submit(RoleEnd(name))


class ProgramStateGroup:
    """The forks of a state. `group += ...` appends to each: one expression, a list of one for each, or a function of
    the index."""

    def __init__(self, states: Sequence[ProgramState], source: ProgramState) -> None:
        self.states = list(states)
        self._source = source

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> ProgramState:
        return self.states[index]

    def __setitem__(self, index: int, value: ProgramState) -> None:
        """For `group[index] += ...`, which ends with it. Raises InflightError for another state."""
        if self.states[index] is not value:
            raise InflightError("A fork cannot be replaced by another state.", "Append to it: forks[i] += ...")

    def __iadd__(self, other: str | Expression | Sequence[Any] | Callable[[int], Any]) -> ProgramStateGroup:
        for index, state in enumerate(self.states):
            if callable(other):
                state += other(index)
            else:
                state += other if isinstance(other, (str, Expression)) else other[index]
        return self

    def join(self, mode: str = "gather_variable") -> None:
        """Wait for all forks. `gather_variable`: what they set, and the source has not, becomes a list there, in their
        order. `concate_and_append`: the texts that they added are appended to the source."""
        interpreters = [state._interpreter for state in self.states]
        source = self._source._interpreter
        if mode == "concate_and_append":
            source.submit("".join(each.text_since_fork() for each in interpreters))
            source.sync()
        elif mode == "gather_variable":
            gathered: dict[str, list[Any]] = {}
            for each in interpreters:
                each.sync()
                for name, value in each.variables.items():
                    if name not in source.variables:
                        gathered.setdefault(name, []).append(value)
            for name, values in gathered.items():
                source.set_variable(name, values)
        else:
            raise InflightError(f"mode is {mode!r}; it must be gather_variable or concate_and_append.")
        for each in interpreters:
            each.end()

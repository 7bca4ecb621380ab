"""The text of one state, with the messages and the scopes in it."""

from __future__ import annotations

from copy import copy

from inflight.errors import InflightError
from inflight.lang.backends.base import Place
from inflight.lang.roles import Roles


class Transcript:
    """Text that grows at its end. `messages` are the whole ones, as OpenAI's API has them."""

    def __init__(self) -> None:
        self.text = ""
        self.messages: list[dict[str, str]] = []
        self._is_chat = False
        self._role: str | None = None
        # Where the open message begins and the last whole one ends; what its role put behind that.
        self._begun_at = self._ended_at = 0
        self._suffix = ""
        self._scopes: dict[str, int] = {}

    def copy(self) -> Transcript:
        """The same text, which goes on by itself; scopes that are open are not."""
        twin = copy(self)
        twin.messages, twin._scopes = list(self.messages), {}
        return twin

    @property
    def place(self) -> Place:
        """Where it ends, for a backend."""
        content = self.text[self._begun_at :] if self._role is not None else ""
        return Place(self.text, self._is_chat, tuple(self.messages), self._role, content)

    def begin_scope(self, name: str) -> None:
        self._scopes[name] = len(self.text)

    def end_scope(self, name: str) -> str:
        """The text since its beginning."""
        return self.text[self._scopes.pop(name) :]

    def begin_message(self, role: str, roles: Roles) -> None:
        """Raises InflightError within a message, and where the template refuses the role."""
        if self._role is not None:
            raise InflightError(f"A message of {role} begins inside one of {self._role}.", "End that one first.")
        before = roles.before([message["role"] for message in self.messages], role)
        self._is_chat = self._is_chat or not self.text
        if self.messages and self.text[self._ended_at :] == self._suffix:
            # A template may end a conversation in another way than it goes on with it.
            self.text = self.text[: self._ended_at]
        elif self.messages:
            before = before.removeprefix(self._suffix)
        self.text += before
        self._role, self._begun_at = role, len(self.text)

    def end_message(self, role: str, roles: Roles) -> None:
        """Raises InflightError where no message of that role has begun."""
        if self._role != role:
            raise InflightError(f"A message of {role} ends, and {self._role or 'none'} has begun.")
        message = {"role": role, "content": self.text[self._begun_at :].lstrip()}
        suffix = roles.behind([*(each["role"] for each in self.messages), role])
        self.messages.append(message)
        self._role, self._suffix, self._ended_at = None, suffix, len(self.text)
        self.text += suffix

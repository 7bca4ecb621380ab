"""What stands before and behind the messages of a chat, taken from the model's own chat template by rendering it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from inflight.errors import InflightError, RequestError

# Renders messages: Tokenizer.render_chat of them with add_generation_prompt.
Render = Callable[[list[dict[str, Any]], bool], str]


class Roles:
    """The text around contents. Placeholders stand for these while the template runs, so that no content can change
    what is found, and each question is asked of the template once.

    Raises InflightError, with the template's own words, for roles that it does not take.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._known: dict[tuple[tuple[str, ...], bool], str] = {}

    def before(self, roles: Sequence[str], role: str) -> str:
        """What stands between the content of the last of `roles`, or the very beginning, and that of a `role` that
        follows. For the assistant it is what the template ends with when an answer is to be generated."""
        asked = tuple(roles)
        if role == "assistant" and asked:
            begun, ended = (self._behind(asked, asks) for asks in (True, False))
            if begun is not None and begun != ended:
                return begun
        found = self._between((*asked, role), len(asked))
        if found is None and role == "system":
            # Some templates show the system's message only as a part of the user's.
            found = self._between((*asked, role, "user"), len(asked))
        if found is None:
            # Again, for the reason: a template says what it does not take.
            self._render(_placeholders((*asked, role)), False)
            raise InflightError(
                f"The model's chat template does not show a message of the role {role} in its place, behind"
                f" {', '.join(asked) or 'none'}, so that a program, which only appends, cannot write it.",
                "Write the prompt as text, or use LLM.chat.",
            )
        return found

    def behind(self, roles: Sequence[str]) -> str:
        """What stands behind the content of the last of `roles` where no other follows; empty where the template shows
        it only with one that does."""
        return self._behind(tuple(roles), False) or ""

    def _behind(self, roles: tuple[str, ...], asks: bool) -> str | None:
        rendered = self._rendered(roles, asks)
        _, shown, found = rendered.rpartition(_placeholder(len(roles) - 1))
        return found if shown and _MARK not in found else None

    def _between(self, roles: tuple[str, ...], second: int) -> str | None:
        """The text between the contents of message `second` and of the one before it, or from the beginning; None where
        they do not follow each other, or another one stands between them."""
        start, rendered = 0, self._rendered(roles, False)
        if second > 0:
            start = rendered.rfind(_placeholder(second - 1))
            if start < 0:
                return None
            start += len(_placeholder(second - 1))
        end = rendered.find(_placeholder(second), start)
        found = rendered[start:end]
        return None if end < 0 or _MARK in found else found

    def _rendered(self, roles: tuple[str, ...], asks: bool) -> str:
        """Empty: the template does not take these messages."""
        if (roles, asks) not in self._known:
            try:
                self._known[roles, asks] = self._render(_placeholders(roles), asks)
            except RequestError:
                self._known[roles, asks] = ""
        return self._known[roles, asks]


_MARK = "PLACEHOLDER_OF_A_MESSAGE_"


def _placeholder(index: int) -> str:
    return f"{_MARK}{index}_"


def _placeholders(roles: Sequence[str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": _placeholder(index)} for index, role in enumerate(roles)]

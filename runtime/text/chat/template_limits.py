"""Limits on a chat template, which is a program of the model's: processor time, and the text and lists that it makes.

Templates have no other way to run on than loops, calls and operations on long values. Each of them passes through
`Limits`, which the sandboxed environment of `jinja_environment` asks.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError

# A template that has a thousand messages to write takes some 50 milliseconds.
SECONDS = 2.0
# Characters and list items that all operations together may make. A prompt has far fewer, but some templates build it
# by adding to one string in a loop.
ITEMS = 1 << 26
# A number that says how long something becomes: a width, a count.
_LARGEST_COUNT = 1_000_000
_MOST_BITS = 4096
_WIDTH = re.compile(r"[0-9]{7,}|\*")


class TooMuch(TemplateError):
    """The template asks for more than the limits allow."""


class Limits(threading.local):
    """What is left to the template that this thread renders."""

    def __init__(self) -> None:
        self._deadline = float("inf")
        self._items = ITEMS

    @contextmanager
    def rendering(self) -> Iterator[None]:
        """Begin anew; the limits hold inside."""
        self._deadline, self._items = time.thread_time() + SECONDS, ITEMS
        try:
            yield
        finally:
            self._deadline = float("inf")

    def tick(self) -> None:
        """Raises TooMuch when the time is over."""
        if time.thread_time() > self._deadline:
            raise TooMuch(f"it runs for more than {SECONDS:g} seconds.")

    def spend(self, items: int) -> None:
        """Raises TooMuch when so many characters or items more are too many."""
        self._items -= items
        if self._items < 0:
            raise TooMuch(f"it makes more than {ITEMS} characters.")

    def made(self, value: Any) -> Any:
        """`value`, which an operation has made."""
        if isinstance(value, str | list | tuple | dict):
            self.spend(len(value))
        self.tick()
        return value

    def weigh(self, values: Iterable[Any]) -> None:
        """Count what is in `values` as often as it is there: written out or compared, shared parts are gone through
        each time."""
        waiting, count = [iter(values)], 0
        while waiting:
            for value in waiting[-1]:
                count += 1
                if not count % 4096:
                    self.tick()
                self.spend(1 + (len(value) if isinstance(value, str) else 0))
                if isinstance(value, list | tuple | dict):
                    waiting.append(iter(value.values() if isinstance(value, dict) else value))
                    break
            else:
                waiting.pop()

    def check_counts(self, values: Iterable[Any]) -> None:
        """Refuse numbers that would make something too long, and formats with such numbers."""
        for value in values:
            if isinstance(value, int) and abs(value) > _LARGEST_COUNT:
                raise TooMuch(f"it uses the number {value} as a length.")

    def check_operation(self, operator: str, left: Any, right: Any) -> None:
        """Before a binary operation whose result may be much longer than its operands."""
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                    self.spend(len(sequence) * max(count, 0))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * abs(right) > _MOST_BITS:
                raise TooMuch("it computes a power that is too large.")
        elif operator == "%" and isinstance(left, str):
            self.check_format(left)
            self.weigh([right])

    def check_format(self, layout: str) -> None:
        """A format may ask for no width that the values themselves do not have."""
        if _WIDTH.search(layout):
            raise TooMuch("it formats with too great a width.")

    def join(self, parts: Iterable[str]) -> str:
        """The parts as one string; Jinja's way to end a macro or a block."""
        found = list(parts)
        self.spend(sum(map(len, found)))
        self.tick()
        return "".join(found)

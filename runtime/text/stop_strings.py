"""Stop strings in a growing text."""

from __future__ import annotations

from itertools import compress
from typing import AnyStr


class StopStrings:
    """Passes text through up to the first stop string.

    The first is the one that is complete first; of several complete at the same character, the longest. The outcome
    therefore does not depend on how the text was split. `matched` is the stop string found.
    """

    def __init__(self, stops: tuple[str, ...], keep_match: bool = False) -> None:
        self._stops = stops
        self._keep_match = keep_match
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that can no longer become part of a stop string. After a match: the text before (or through) it."""
        window = self._held + text
        matches = [(start + len(stop), start, stop) for stop in self._stops if (start := window.find(stop)) >= 0]
        if matches:
            end, start, self.matched = min(matches)
            self._held = ""
            return window[: end if self._keep_match else start]
        released = len(window) - self._num_held(window)
        self._held = window[released:]
        return window[:released]

    def flush(self) -> str:
        """The text that was held back, once it is known that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, window: str) -> int:
        """The length of the longest ending of `window` that begins a stop string."""
        return max((overlap(window, stop) for stop in self._stops), default=0)


class SpelledStopStrings:
    """As StopStrings, with stop strings `spelled` that name special tokens.

    Those are looked for in the text with the special tokens that it does not show, which `push_hidden` spells; the
    others, as ever, in the text that is shown.
    """

    def __init__(self, stops: tuple[str, ...], spelled: tuple[str, ...], keep_match: bool = False) -> None:
        self._stops = stops
        self._spelled = spelled
        self._keep_match = keep_match
        # The text held back, and for each of its characters whether it is shown.
        self._held = ""
        self._is_shown: list[bool] = []
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """As StopStrings.push."""
        return self._advance(text, True)

    def would_match(self, text: str) -> bool:
        """Whether a stop string that names a special token would be complete with `text`."""
        return any(stop in self._held + text for stop in self._spelled)

    def push_hidden(self, text: str) -> str:
        """As `push`, for the text of a special token, which is shown only as part of a match that is kept."""
        return self._advance(text, False)

    def flush(self) -> str:
        """As StopStrings.flush."""
        return self._release(len(self._held))

    def _advance(self, text: str, is_shown: bool) -> str:
        self._held += text
        self._is_shown += [is_shown] * len(text)
        shown, places = self._shown(len(self._held)), [place for place, is_in in enumerate(self._is_shown) if is_in]
        found = [(at + len(stop), at, stop) for stop in self._spelled if (at := self._held.find(stop)) >= 0]
        for stop in self._stops:
            if (at := shown.find(stop)) >= 0:
                found.append((places[at + len(stop) - 1] + 1, places[at], stop))
        if found:
            _, start, self.matched = min(found)
            before = self._shown(start)
            self._held, self._is_shown = "", []
            return before + self.matched if self._keep_match else before
        num_held = max(overlap(self._held, stop) for stop in self._spelled)
        if begun := max((overlap(shown, stop) for stop in self._stops), default=0):
            num_held = max(num_held, len(self._held) - places[-begun])
        return self._release(len(self._held) - num_held)

    def _release(self, end: int) -> str:
        released = self._shown(end)
        self._held, self._is_shown = self._held[end:], self._is_shown[end:]
        return released

    def _shown(self, end: int) -> str:
        """What is shown of the first `end` characters of the text held back."""
        return "".join(compress(self._held[:end], self._is_shown))


def overlap(text: AnyStr, stop: AnyStr) -> int:
    """The longest ending of `text` that is a beginning of `stop`, and not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

"""Stop strings in a growing text."""

from __future__ import annotations


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
        return max((_overlap(window, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """The longest ending of `text` that is a beginning of `stop`, and not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

"""The text of one sequence as it grows, cut at stop strings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.detokenizer import IncrementalDetokenizer
from inflight.runtime.text.stop_strings import SpelledStopStrings, StopStrings
from inflight.runtime.text.tokenizer import Tokenizer


@dataclass(slots=True)
class TextDelta:
    """New text. `num_tokens` of the tokens pushed belong to it; more than that came after a stop string.

    Not frozen, for the time that takes. `stop_string` is set once, when a stop string ended the text: the caller
    cancels the sequence and reports the finish reason "stop".
    """

    text: str
    num_tokens: int
    stop_string: str | None = None


class TextStream:
    """Decodes one sequence and looks for stop strings in its text, whatever tokens they are made of.

    A stop string that names special tokens, alone or among other text, is found where those tokens are, shown or not.

    Special tokens whose text is one of `markers` are shown whatever skip_special_tokens says, for who looks for them in
    the text. Before one, text that is held back ends.

    Text that may be the beginning of a stop string, or half a character, is held back until it is certain, so the
    text already returned never has to be taken back. Nothing is looked for in the text of the first
    `params.min_tokens` tokens. How tokens are grouped into pushes does not change the joined text.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, markers: Collection[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._markers = frozenset(markers) if params.skip_special_tokens else frozenset()
        self._detokenizer = IncrementalDetokenizer(tokenizer, params.skip_special_tokens)
        self._hides_special_tokens = params.skip_special_tokens
        keep = params.include_stop_str_in_output
        names_special = tokenizer.names_special_token
        spelled = tuple(stop for stop in params.stop if names_special(stop))
        plain = tuple(stop for stop in params.stop if not names_special(stop)) if spelled else tuple(params.stop)
        self._spelled_stops = SpelledStopStrings(plain, spelled, keep) if spelled else None
        self._stops = self._spelled_stops or StopStrings(plain, keep)
        self._kept_end_tokens = frozenset(params.stop_token_ids) if keep else frozenset()
        self._min_tokens = params.min_tokens
        self._num_tokens = 0
        self._closed = False
        self.num_decoded_characters = 0

    def push(self, token_ids: Sequence[int], ended_by_token: bool = False, finished: bool = False) -> TextDelta:
        """Add tokens. `ended_by_token`: the last of them is an end or stop token, which has no text of its own, but for
        one of `stop_token_ids` with `include_stop_str_in_output`. `finished`: no more will come, so everything held
        back is returned."""
        if self._closed:
            return TextDelta("", 0)
        text = ""
        for position, token_id in enumerate(token_ids):
            ends = ended_by_token and position == len(token_ids) - 1
            hidden = ends and token_id not in self._kept_end_tokens
            self._num_tokens += 1
            part, stop = self._advance(token_id, hidden)
            text += part
            if stop is not None:
                self._closed = True
                return TextDelta(text, position + 1, stop)
        if not finished:
            return TextDelta(text, len(token_ids))
        self._closed = True
        part, stop = self._release(self._detokenizer.flush())
        return TextDelta(text + part + self._stops.flush(), len(token_ids), stop)

    def _advance(self, token_id: int, hidden: bool) -> tuple[str, str | None]:
        """As `_release`, for the next token."""
        if self._markers and not hidden and (marker := self._tokenizer.special_piece(token_id)) in self._markers:
            return self._release_marker(str(marker))
        text, stop = self._release("" if hidden else self._detokenizer.push((token_id,)))
        if stop is None and self._spelled_stops is not None and (hidden or self._hides_special_tokens):
            part, stop = self._release_hidden(self._spelled_stops, token_id)
            text += part
        return text, stop

    def _release(self, decoded: str) -> tuple[str, str | None]:
        """The text that may be shown now, and the stop string that ended it."""
        self.num_decoded_characters += len(decoded)
        if self._num_tokens <= self._min_tokens:
            return decoded, None
        return self._stops.push(decoded), self._stops.matched

    def _release_marker(self, marker: str) -> tuple[str, str | None]:
        """As `_release`, for a special token that is shown in any case. No stop string reaches over it, unless it names
        special tokens itself."""
        before, stop = self._release(self._detokenizer.flush())
        if stop is not None or self._num_tokens <= self._min_tokens:
            return before + ("" if stop is not None else marker), stop
        if self._spelled_stops is not None:
            return before + self._spelled_stops.push(marker), self._spelled_stops.matched
        return before + self._stops.flush() + marker, None

    def _release_hidden(self, stops: SpelledStopStrings, token_id: int) -> tuple[str, str | None]:
        """As `_release`, for a token that is not shown, if it is a special one."""
        spelled = self._tokenizer.special_piece(token_id)
        if spelled is None or self._num_tokens <= self._min_tokens:
            return "", None
        before, stop = "", None
        if stops.would_match(spelled):
            # What waits for its last bytes, or for the whole text, comes before this token and will not be completed.
            before, stop = self._release(self._detokenizer.flush())
        return (before, stop) if stop is not None else (before + stops.push_hidden(spelled), stops.matched)

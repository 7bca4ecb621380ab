"""What a step that computes a prompt and a copy from the store take, and which of the two is predicted to be faster."""

from __future__ import annotations

# Before so much was seen of both, nothing is predicted: copies are taken.
_LEAST_SECONDS = 1.0
_LEAST_COPIES = 16
# Of a mean: what was seen last counts for a sixteenth, so that a disk that has become slow shows.
_WEIGHT = 1 / 16
# Steps with fewer tokens than this read the weights for few of them, as decoding does.
_LEAST_TOKENS = 16


class TransferCosts:
    """Running means of seconds a computed token of a prompt and a copied block, of one engine on one machine.

    A token that lies deep in a long prompt costs more than the mean, since it attends to more: the prediction errs on
    the side of computing there.
    """

    def __init__(self, tokens_per_block: int) -> None:
        self._tokens_per_block = tokens_per_block
        self._token_s = self._copy_s = 0.0
        self._seen_s = 0.0
        self._copies = 0

    def computed(self, context_tokens: int, tokens: int, seconds: float) -> None:
        """A step of so many tokens, of which these were of prompts, took so long."""
        if context_tokens < _LEAST_TOKENS or 2 * context_tokens < tokens:
            return
        each = seconds / tokens
        self._token_s += (each - self._token_s) * (_WEIGHT if self._seen_s else 1.0)
        self._seen_s += seconds

    def copied(self, seconds: float) -> None:
        """A block was read from the store and written into the cache in so long."""
        self._copy_s += (seconds - self._copy_s) * (_WEIGHT if self._copies else 1.0)
        self._copies += 1

    @property
    def copying_is_faster(self) -> bool:
        """Whether a block comes sooner from the store than by computing its tokens."""
        if self._seen_s < _LEAST_SECONDS or self._copies < _LEAST_COPIES:
            return True
        return self._copy_s < self._token_s * self._tokens_per_block

"""From a request's parameters to what the executor's sampler needs: a constant part, and the bans of each step."""

from __future__ import annotations

from collections.abc import Sequence

from inflight.runtime.request.request import Request, sequence_seed
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import RowSampling
from inflight.sampling_parameters import RECORD_PARAMETERS, to_float32


def row_sampling(params: SamplingParams, seed: int, index: int) -> RowSampling:
    """The sampling of sequence `index`, in numbers that float32 holds; `seed` is the request's.

    best_of ranks by cumulative log probability, so it needs log probabilities whether or not they were asked for.
    """
    ranked = params.best_of is not None and params.best_of > params.n
    return RowSampling(
        **{row.name: row.rounded(getattr(params, row.name)) for row in RECORD_PARAMETERS},
        seed=sequence_seed(seed, index),
        num_logprobs=(params.logprobs or 0) if ranked or params.logprobs is not None else -1,
        bias=tuple((token_id, to_float32(value)) for token_id, value in params.logit_bias.items()),
    )


class StopRules:
    """Which tokens end a request's sequences, and which ones may not be chosen. Shared by its sequences.

    Ids beyond the vocabulary are dropped: a token that cannot be chosen neither ends a sequence nor needs a ban, and
    clients do send such ids (the end_id of another model). Without `may_ban`, nothing is banned at any length.
    """

    __slots__ = ("_always_banned", "_ban_to_min_tokens", "_min_tokens", "_words", "end_ids", "may_ban", "stop_ids")

    def __init__(self, request: Request, vocab_size: int) -> None:
        params = request.params
        possible = range(vocab_size)
        self.end_ids = frozenset(() if params.ignore_eos else (id for id in request.end_token_ids if id in possible))
        self.stop_ids = self.end_ids.union(id for id in params.stop_token_ids if id in possible)
        self._min_tokens = params.min_tokens
        words = {word for word in params.bad_word_ids if word and word[-1] in possible}
        self._always_banned = frozenset(word[0] for word in words if len(word) == 1)
        self._words = sorted(word for word in words if len(word) > 1)
        self._ban_to_min_tokens = self._always_banned | self.stop_ids
        self.may_ban = bool(words) or (self._min_tokens > 0 and bool(self.stop_ids))

    def banned(self, token_ids: Sequence[int], num_outputs: int) -> tuple[int, ...]:
        """The tokens that may not follow `token_ids` (prompt and output, of which `num_outputs` are output), ascending.

        Before min_tokens they include all that would end the sequence; the last token of a bad word is among them when
        the sequence ends with the others.
        """
        always = self._ban_to_min_tokens if num_outputs < self._min_tokens else self._always_banned
        matched = [word[-1] for word in self._words if _ends_with(token_ids, word[:-1])] if self._words else ()
        return tuple(sorted(always.union(matched))) if always or matched else ()


def _ends_with(token_ids: Sequence[int], tail: tuple[int, ...]) -> bool:
    return len(token_ids) >= len(tail) and tuple(token_ids[-len(tail) :]) == tail

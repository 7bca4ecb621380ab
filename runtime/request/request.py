"""A request as the engine core sees it: token ids in, and how to sample. Text stays outside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from inflight.runtime.sampling.params import SamplingParams
from inflight.sampling_parameters import to_float32

SEED_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Beams:
    """Beam search for the `width` likeliest sequences; `length_penalty`: see BeamSearchParams."""

    width: int
    length_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and what is asked of it.

    `request_id` is unique among unfinished requests. `end_token_ids` are the model's own end tokens. A lower `priority`
    is served sooner; equal ones in the order in which they were added. `arrival_ns` (time.monotonic_ns) is for the
    metrics alone; None takes the time at which the core was given the request. With
    `metrics_in_every_delta` the last delta of a sequence is not the only one that has metrics.
    With `beams` the sequences are the best that beam search finds, which an EngineThread or the LLM class runs; they
    come whole, the best first.
    The core runs `num_sequences` sequences and ignores `params.stop` and `params.bad_words`, which are text.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    end_token_ids: tuple[int, ...] = ()
    priority: int = 0
    arrival_ns: int | None = None
    metrics_in_every_delta: bool = False

    @property
    def num_sequences(self) -> int:
        return self.params.num_sequences

    @property
    def beams(self) -> Beams | None:
        """The search that is asked for, in numbers that float32 holds."""
        params = self.params
        if not params.use_beam_search:
            return None
        return Beams(params.best_of or params.n, to_float32(params.length_penalty))


def sequence_seed(seed: int, index: int) -> int:
    """The 64-bit seed of sequence `index` of a request whose seed is `seed`.

    Sequence 0 keeps the request's own seed (modulo 2**64), so that it is the sequence that n = 1 would give; the others
    take the first 8 bytes (little endian) of BLAKE2b over the two numbers, 8 bytes each.
    """
    seed &= SEED_MASK
    if index == 0:
        return seed
    message = seed.to_bytes(8, "little") + index.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")

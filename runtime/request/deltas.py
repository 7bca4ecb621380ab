"""What the engine core publishes: new tokens of a sequence, and how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from inflight.errors import EngineError, InflightError, RequestError
from inflight.runtime.scheduler.step import TokenResult

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Times (time.monotonic_ns; 0 when it did not happen) and counts of one sequence.

    `cached_tokens`: prompt tokens found in the prefix cache when the sequence was first scheduled. The block counts
    follow TensorRT-LLM: they are of the tokens that the sequence has when it is admitted, over all times that it was;
    `kv_blocks_total` are those that were allocated, so without the reused ones.
    """

    arrival_ns: int
    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    kv_blocks_total: int
    kv_blocks_new: int
    kv_blocks_reused: int
    preemptions: int

    # Names of vLLM. Its times are seconds: `_time` of the wall clock, `_ts` of the monotonic one.

    @property
    def arrival_time(self) -> float:
        return _wall_clock(self.arrival_ns)

    @property
    def first_scheduled_time(self) -> float | None:
        return _wall_clock(self.first_scheduled_ns) if self.first_scheduled_ns else None

    @property
    def first_token_time(self) -> float | None:
        return _wall_clock(self.first_token_ns) if self.first_token_ns else None

    @property
    def last_token_time(self) -> float:
        return _wall_clock(self.last_token_ns)

    @property
    def finished_time(self) -> float:
        """That of the last token: a request ends in the step which computed it."""
        return _wall_clock(self.last_token_ns)

    @property
    def time_in_queue(self) -> float | None:
        return (self.first_scheduled_ns - self.arrival_ns) / 1e9 if self.first_scheduled_ns else None

    @property
    def queued_ts(self) -> float:
        return self.arrival_ns / 1e9

    @property
    def scheduled_ts(self) -> float:
        return self.first_scheduled_ns / 1e9

    @property
    def first_token_ts(self) -> float:
        return self.first_token_ns / 1e9

    @property
    def last_token_ts(self) -> float:
        return self.last_token_ns / 1e9

    @property
    def first_token_latency(self) -> float:
        """Seconds from the arrival to the first token; 0 when there is none."""
        return (self.first_token_ns - self.arrival_ns) / 1e9 if self.first_token_ns else 0.0

    @property
    def num_generation_tokens(self) -> int:
        return self.output_tokens


def _wall_clock(monotonic_ns: int) -> float:
    """A time of the monotonic clock in seconds of the wall clock, as it is set now."""
    return (time.time_ns() - time.monotonic_ns() + monotonic_ns) / 1e9


@dataclass(slots=True)
class TokenDelta:
    """New tokens of one sequence. The last delta of a sequence, and only that one, has a `finish_reason`.

    Not frozen, because that would be slower; receivers must not change it.
    `logprobs` has one entry per token when `params.logprobs` is set or best_of is above n (which ranks by them); else
    it is empty. `prompt_logprobs` comes once, with the first delta of index 0 that has a token: an entry per prompt
    token, None for the first and for those before params.prompt_logprobs_start. `cached_tokens`, the prompt tokens
    found in the prefix cache, comes with the first token of each sequence. `stop_reason` is the id of the
    stop_token_ids that ended the sequence, None for the model's own end token. With `ended_by_token` the last of
    `token_ids` is that token.
    `metrics` comes with the last delta, or with each when the request says so; `error` says why when finish_reason is
    "error", and `requests_fault` that another try would end as this one did.
    """

    request_id: str
    index: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenResult, ...] = ()
    prompt_logprobs: tuple[TokenResult | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    ended_by_token: bool = False
    cached_tokens: int | None = None
    metrics: RequestMetrics | None = None
    error: str | None = None
    requests_fault: bool = False

    @property
    def failure(self) -> InflightError | None:
        """What ended the sequence, if an error did."""
        if self.finish_reason != "error":
            return None
        kind = RequestError if self.requests_fault else EngineError
        return kind(self.error or "The engine failed.")

"""Beam search of requests, on an engine that serves others as well: a step of a search is a request of each beam."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from inflight.errors import EngineError, RequestError
from inflight.runtime.beam_search.search import Beam, BeamSearchParams, ChoiceT, Search, check_search
from inflight.runtime.request.deltas import FinishReason, RequestMetrics, TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import TokenResult
from inflight.sampling_parameters import SAMPLING_PARAMETERS

OnDelta = Callable[[TokenDelta], None]

_log = logging.getLogger(__name__)

# What beam search reads, or what says nothing about the choice of tokens.
_TAKEN = (
    "n",
    "best_of",
    "use_beam_search",
    "length_penalty",
    "max_tokens",
    "ignore_eos",
    "seed",
    "skip_special_tokens",
    "cache_salt",
    "watermark_gamma",
)
# At these values, those of clients that send everything, others ask for nothing.
_NEUTRAL = {"temperature": (0.0, 1.0), "top_k": (0, 1), "logprobs": (None, 0)}


class Engine(Protocol):
    """What a search needs of an engine; `place` is what `submit_step` returned for the step before. `failure`: what the
    engine failed with."""

    failure: BaseException | None

    def submit_step(self, requests: Sequence[Request], on_delta: OnDelta, place: int | None) -> int: ...

    def cancel(self, request_id: str, index: int | None = None) -> None: ...


def check_beams(request: Request, max_length: int) -> None:
    """Raises RequestError for what beam search has no meaning for, and for a search that has no room."""
    params = request.params
    for row in SAMPLING_PARAMETERS:
        value = getattr(params, row.name)
        if row.name not in _TAKEN and value not in _NEUTRAL.get(row.name, (row.default,)):
            raise RequestError(
                f"{row.name} is {value}; beam search takes the likeliest tokens as they are.", "Leave it out."
            )
    check_search(search_of(request, max_length), max_length)


class BeamRequests:
    """The searches under way. Each has a thread, which waits for its beams; the deltas of its sequences come on it, one
    for each, when the search has ended. `delivered` is called behind them.
    """

    def __init__(self, engine: Engine, max_length: int, vocab_size: int, delivered: Callable[[], None]) -> None:
        self._engine = engine
        self._max_length = max_length
        self._vocab_size = vocab_size
        self._delivered = delivered
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._running

    def submit(self, request: Request, on_delta: OnDelta) -> None:
        """Begin the search of a checked request. Raises as EngineThread.submit."""
        running = _Running(request, search_of(request, self._max_length), self._vocab_size)
        running.begin_step(self._engine)
        with self._lock:
            self._running[request.request_id] = running
        running.thread = threading.Thread(
            target=self._run, args=(running, on_delta), name="inflight-beams", daemon=True
        )
        running.thread.start()

    def cancel(self, request_id: str) -> None:
        """End a search with what it has found. Unknown ids are ignored."""
        running = self._running.get(request_id)
        if running is not None:
            running.cancel(self._engine)

    def join(self) -> None:
        """Return when all have ended, which they do once the engine has."""
        with self._lock:
            threads = [running.thread for running in self._running.values()]
        for thread in threads:
            if thread is not None and thread is not threading.current_thread():
                thread.join()

    def _run(self, running: _Running, on_delta: OnDelta) -> None:
        try:
            deltas = running.run(self._engine)
        except Exception as error:
            _log.exception("a beam search failed")
            deltas = running.failed(f"{type(error).__name__}: {error}", False)
        with self._lock:
            del self._running[running.request.request_id]
        try:
            for delta in deltas:
                on_delta(delta)
        except Exception:
            _log.exception("the callback of request %s raised", running.request.request_id)
        self._delivered()


@dataclass(slots=True)
class _Running:
    request: Request
    search: Search[TokenResult]
    vocab_size: int
    cancelled: bool = False
    thread: threading.Thread | None = None
    _place: int | None = None
    _step: int = 0
    _ids: list[str] = field(default_factory=list)
    _results: dict[str, TokenDelta] = field(default_factory=dict)
    _all_there: threading.Event = field(default_factory=threading.Event)
    _first: RequestMetrics | None = None

    def begin_step(self, engine: Engine) -> None:
        """Ask for the next tokens of every beam."""
        asked = SamplingParams(
            temperature=0,
            max_tokens=1,
            logprobs=min(self.search.looked_at, self.vocab_size),
            cache_salt=self.request.params.cache_salt,
        )
        self._step += 1
        self._results.clear()
        self._all_there.clear()
        self._ids = [f"{self.request.request_id}/{self._step}/{beam}" for beam in range(len(self.search.running))]
        requests = [
            Request(request_id, beam.tokens, asked, priority=self.request.priority)
            for request_id, beam in zip(self._ids, self.search.running, strict=True)
        ]
        self._place = engine.submit_step(requests, self._take, self._place)
        if self.cancelled:
            self.cancel(engine)

    def cancel(self, engine: Engine) -> None:
        self.cancelled = True
        for request_id in self._ids:
            engine.cancel(request_id)

    def run(self, engine: Engine) -> list[TokenDelta]:
        """The rest of a search whose first step was begun: the last deltas of its sequences."""
        while True:
            self._all_there.wait()
            results = [self._results[request_id] for request_id in self._ids]
            self._first = self._first or results[0].metrics
            if failed := next((each for each in results if each.finish_reason == "error"), None):
                return self.failed(failed.error, failed.requests_fault)
            if any(each.finish_reason == "cancelled" for each in results):
                return self._found("cancelled")
            self.search.step([_options(each.logprobs[0]) for each in results])
            if not self.search.running:
                return self._found("length")
            try:
                self.begin_step(engine)
            except EngineError as error:  # between two steps it was closed, or has failed
                return self._found("cancelled") if engine.failure is None else self.failed(error.message, False)

    def failed(self, error: str | None, requests_fault: bool) -> list[TokenDelta]:
        metrics = self._metrics(0)
        return [
            TokenDelta(
                self.request.request_id,
                index,
                finish_reason="error",
                error=error,
                requests_fault=requests_fault,
                metrics=metrics,
            )
            for index in range(self.request.num_sequences)
        ]

    def _take(self, delta: TokenDelta) -> None:
        """Called by the engine's thread, once for each beam: a request of one token has one delta."""
        self._results[delta.request_id] = delta
        if len(self._results) == len(self._ids):
            self._all_there.set()

    def _found(self, otherwise: FinishReason) -> list[TokenDelta]:
        deltas = found_deltas(self.request, self.search, otherwise, lambda token_id, choice: choice)
        for delta in deltas:
            delta.metrics = self._metrics(len(delta.token_ids))
            delta.cached_tokens = delta.metrics.cached_tokens if delta.token_ids else None
        return deltas

    def _metrics(self, num_tokens: int) -> RequestMetrics:
        """Times of the whole search, and the blocks of its prompt."""
        first = self._first
        if first is None:
            return RequestMetrics(0, 0, 0, 0, len(self.search.prompt), 0, 0, 0, 0, 0, 0)
        last = max((each.metrics.last_token_ns for each in self._results.values() if each.metrics), default=0)
        return RequestMetrics(
            self.request.arrival_ns or first.arrival_ns,
            first.first_scheduled_ns,
            first.first_token_ns,
            last,
            first.prompt_tokens,
            first.cached_tokens,
            num_tokens,
            first.kv_blocks_total,
            first.kv_blocks_new,
            first.kv_blocks_reused,
            first.preemptions,
        )


def search_of(request: Request, max_length: int) -> Search[ChoiceT]:
    """The search that a request for beams asks for; without max_tokens sequences may be as long as there is room."""
    assert request.beams is not None
    room = request.params.max_tokens or max(max_length - len(request.prompt_token_ids), 1)
    params = BeamSearchParams(request.beams.width, room, length_penalty=request.beams.length_penalty)
    ends = frozenset(() if request.params.ignore_eos else request.end_token_ids)
    return Search(params, request.prompt_token_ids, ends)


def found_deltas(
    request: Request,
    search: Search[ChoiceT],
    otherwise: FinishReason,
    result: Callable[[int, ChoiceT], TokenResult],
) -> list[TokenDelta]:
    """A delta for each sequence that is wanted, the best first; `otherwise`: why those ended that no end token did.
    Where there are fewer than that, since the vocabulary has so few, the others are empty. `result`: of a token what
    its log probability is reported as."""
    found = search.best_so_far()
    found += [Beam(search.prompt) for _ in range(request.num_sequences - len(found))]
    deltas = []
    for index, beam in enumerate(found[: request.num_sequences]):
        tokens = beam.tokens[len(search.prompt) :]
        chosen = [result(token, options[token]) for options, token in zip(beam.logprobs, tokens, strict=True)]
        has_ended = beam.ended_by is not None
        deltas.append(
            TokenDelta(
                request.request_id,
                index,
                tokens,
                tuple(chosen) if request.params.logprobs is not None else (),
                finish_reason="stop" if has_ended else otherwise,
                ended_by_token=has_ended,
            )
        )
    return deltas


def _options(result: TokenResult) -> dict[int, TokenResult]:
    """The likeliest tokens, in order; the chosen one is the first of them."""
    chosen = TokenResult(result.token_id, result.logprob, result.rank)
    others = {token: TokenResult(token, logprob, rank) for rank, (token, logprob) in enumerate(result.top, start=1)}
    return {chosen.token_id: chosen} | others

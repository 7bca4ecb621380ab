"""Random histories of the engine core on the null target, and what each request would have been answered alone."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import OverloadedError, RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request, sequence_seed
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.admission import Waiting
from inflight.runtime.scheduler.scheduled_step import ScheduledStep
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, SequenceResult, StepBatch, TokenResult
from tests.engines.overlapping import Overlapping


@dataclass
class Answer:
    """What one sequence was given."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenResult] = field(default_factory=list)
    prompt_logprobs: tuple[TokenResult | None, ...] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def take(self, delta: TokenDelta) -> None:
        assert self.finish_reason is None, "a delta after the last one"
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        if delta.prompt_logprobs is not None:
            assert self.prompt_logprobs is None, "prompt_logprobs twice"
            self.prompt_logprobs = delta.prompt_logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason
        assert (delta.metrics is not None) == (delta.finish_reason is not None)


class Alone:
    """The oracle: one sequence on an executor of its own, no scheduler: the prompt at once, then token by token."""

    def __init__(self, request: Request, index: int, manifest: EngineManifest, room: int) -> None:
        size = manifest.kv_cache.tokens_per_block
        blocks = -(-manifest.limits.max_seq_len // size)
        self._executor = NullExecutor(manifest, blocks, check=False)
        self._table = list(range(blocks))
        self._request, self._params = request, request.params
        self._room = room if request.params.max_tokens is None else request.params.max_tokens
        params = request.params
        ranked = params.best_of is not None and params.best_of > params.n
        self._wants_logprobs = params.logprobs is not None or ranked
        self._scores = index == 0 and params.prompt_logprobs is not None
        self._sampling = RowSampling(
            temperature=params.temperature,
            repetition_penalty=params.repetition_penalty,
            seed=sequence_seed(params.seed or 0, index),
            num_logprobs=(params.logprobs or 0) if self._wants_logprobs else -1,
            bias=tuple(params.logit_bias.items()),
        )

    def answer(self) -> Answer:
        answer = Answer()
        tokens = list(self._request.prompt_token_ids)
        ends = () if self._params.ignore_eos else self._request.end_token_ids
        start = 0
        while answer.finish_reason is None:
            result = self._step(tokens, start, len(answer.token_ids), (*ends, *self._params.stop_token_ids))
            assert result.sampled is not None
            if start == 0 and self._scores:
                first = max(self._params.prompt_logprobs_start, 1)
                scores = (None, *result.prompt)
                answer.prompt_logprobs = tuple(score if place >= first else None for place, score in enumerate(scores))
            start = len(tokens)
            token = result.sampled.token_id
            tokens.append(token)
            answer.token_ids.append(token)
            if self._wants_logprobs:
                answer.logprobs.append(result.sampled)
            if token in ends or token in self._params.stop_token_ids:
                answer.finish_reason, answer.stop_reason = "stop", None if token in ends else token
            elif len(answer.token_ids) == self._room:
                answer.finish_reason = "length"
        return answer

    def _step(self, tokens: list[int], start: int, outputs: int, stops: tuple[int, ...]) -> SequenceResult:
        banned = set(stops) if outputs < self._params.min_tokens else set()
        for word in self._params.bad_word_ids:
            if word[:-1] == tuple(tokens[len(tokens) - len(word) + 1 :]) or len(word) == 1:
                banned.add(word[-1])
        scheduled = ScheduledSequence(
            slot=0,
            token_ids=tokens[start:],
            start=start,
            block_table=self._table,
            sampling=self._sampling,
            sample_last=True,
            prompt_length=len(self._request.prompt_token_ids),
            banned=tuple(banned),
            prompt_targets=tokens[1:] if start == 0 and self._scores else (),
            prompt_num_logprobs=self._params.prompt_logprobs or 0,
        )
        return self._executor.execute(StepBatch([scheduled])).results[0]


class QueueOracle:
    """Whether a bounded queue takes a request, from what can be seen outside: how many sequences run and wait, and
    whether the last step left some waiting although it had slots, tokens and logit rows for one more."""

    def __init__(self, manifest: EngineManifest, config: SchedulerConfig) -> None:
        self._limits = manifest.limits
        self._size = config.max_queue_size
        self._cache_is_full: bool | None = False

    def scheduled(self, step: ScheduledStep | None, stats: CoreStats) -> None:
        """`stats`: those right after the step was scheduled."""
        if step is None or step.ahead:  # one that was scheduled ahead did not try to start anybody
            return
        tokens_left = step.batch.num_tokens < self._limits.max_num_tokens
        rows_left = sum(each.num_logit_rows for each in step.batch.sequences) < self._limits.max_logit_rows
        could_admit = tokens_left and rows_left and stats.running < stats.max_batch_size
        self._cache_is_full = False if stats.waiting == 0 else True if could_admit or step.stats.preempted else None

    def verdicts(self, request: Request, stats: CoreStats) -> set[str]:
        """Those that are right. There are two when nobody can tell whether blocks or something else kept others out."""
        count, waiting = request.num_sequences, stats.waiting + stats.held
        if self._size == 0:
            return {"accepted"}
        if count > self._size + stats.max_batch_size:
            return {"never"}
        if waiting + count <= self._size:
            return {"accepted"}
        if waiting + count > self._size + stats.max_batch_size - stats.running:
            return {"refused"}
        if stats.running == 0 or self._cache_is_full is False:
            return {"accepted"}
        return {"refused"} if self._cache_is_full else {"accepted", "refused"}


class History:
    """A random engine, random requests, and the order in which they come and are cancelled.

    With `offload`, blocks that leave the cache are kept in that directory, of a random size; else half overlap steps.
    """

    def __init__(self, seed: int, offload: Path | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        pick = self.random.randint
        # A request forbids five at most, and must leave one.
        self.vocab = pick(6, 20)
        size = pick(1, 5)
        self.max_seq_len = pick(4, 40)
        self.manifest = null_manifest(
            vocab_size=self.vocab,
            tokens_per_block=size,
            max_batch_size=pick(1, 8),
            max_seq_len=self.max_seq_len,
            max_num_tokens=pick(1, 16),
            max_logit_rows=pick(1, 8),
        )
        self.num_blocks = max(1, int(self.random.uniform(0.5, 1.5) * self.max_seq_len / size))
        self.total = min(self.max_seq_len, self.num_blocks * size)
        policy: Any = self.random.choice(("guaranteed_no_evict", "MAX_UTILIZATION"))
        self.config = SchedulerConfig(
            policy=policy,
            enable_prefix_caching=self.random.random() < 0.7 or offload is not None,
            max_queue_size=(queue := pick(1, 5) if self.random.random() < 0.5 else 0),
            # What the oracle of the queue knows does not say why nobody starts.
            waiting=Waiting(self.random.uniform(0, 1.5), pick(0, 9)) if queue == 0 and pick(0, 1) else None,
        )
        self.stem = [self.random.randrange(self.vocab) for _ in range(self.max_seq_len)]
        # With a pool of one token there is no room for a prompt and an answer.
        self.requests = [self._request(name) for name in range(pick(1, 7))] if self.total > 1 else []
        self.offload = None if offload is None else KvOffload(offload, pick(300, 30_000))
        self.overlaps, self.late = offload is None and self.random.random() < 0.5, self.random.random() < 0.8
        self.start()

    def start(self) -> None:
        """A new process: nothing is in the cache."""
        null = NullExecutor(self.manifest, self.num_blocks)
        executor = Overlapping(null, late=self.late) if self.overlaps else null
        self.core = EngineCore(executor, self.config, offload=self.offload)
        self.queue = QueueOracle(self.manifest, self.config)
        self.answers: dict[tuple[str, int], Answer] = defaultdict(Answer)

    def run(self) -> None:
        """Play the history to its end and check the outcome."""
        coming = list(self.requests)
        rate, cancel_rate = self.random.uniform(0.2, 1.0), self.random.choice((0.0, 0.0, 0.1))
        for _ in range(10_000):
            while coming and self.random.random() < rate:
                if not self._add(coming.pop(), coming):
                    break
            if self.requests and self.random.random() < cancel_rate:
                victim = self.random.choice(self.requests)
                self.core.cancel(victim.request_id, self.random.choice((None, 0, 1)))
            if self.core.has_unfinished():
                for delta in self._step():
                    self.answers[delta.request_id, delta.index].take(delta)
            elif not coming:
                break
        self._check_end()

    def _add(self, request: Request, coming: list[Request]) -> bool:
        """Queue it; one that is refused because the queue is full comes again later, one too large for it never."""
        right = self.queue.verdicts(request, self.core.stats())
        try:
            self.core.add_request(request)
        except OverloadedError:
            assert "refused" in right, "refused although there is room"
            coming.insert(0, request)
            return False
        except RequestError:
            assert "never" in right
            self.requests.remove(request)
            return True
        assert "accepted" in right, "accepted although the queue is full"
        return True

    def _step(self) -> list[TokenDelta]:
        """A step; now and then something is cancelled in the middle of it, as other threads do."""
        step = self.core.schedule()
        self.queue.scheduled(step, self.core.stats())
        output = None if step is None else self.core.execute(step)
        if self.requests and self.random.random() < 0.02:
            self._cancel_while_computing(self.random.choice(self.requests).request_id)
        return self.core.publish(step, output)

    def _cancel_while_computing(self, victim: str) -> None:
        """What waits leaves the queue at once; what runs keeps its blocks until the step has ended."""
        group = self.core._groups.get(victim)
        left = [each for each in group.sequences if each.status.name != "FINISHED"] if group else []
        waiting = sum(each.status.name != "RUNNING" for each in left)
        before = self.core.stats()
        self.core.cancel(victim)
        after = self.core.stats()
        assert (after.running, after.used_blocks) == (before.running, before.used_blocks)
        assert after.waiting + after.held == before.waiting + before.held - waiting

    def _check_end(self) -> None:
        assert not self.core.has_unfinished(), "livelock"
        self.core.check_integrity()
        stats = self.core.stats()
        assert stats.free_blocks + stats.cached_blocks == stats.total_blocks == self.num_blocks
        assert stats.preemptions == 0 or self.config.policy == "max_utilization"
        wanted = {(request.request_id, index) for request in self.requests for index in range(request.num_sequences)}
        assert set(self.answers) == wanted
        for request in self.requests:
            for index in range(request.num_sequences):
                self._check_answer(request, index, self.answers[request.request_id, index])

    def _check_answer(self, request: Request, index: int, answer: Answer) -> None:
        room = self.total - len(request.prompt_token_ids)
        alone = Alone(request, index, self.manifest, room).answer()
        if answer.finish_reason == "cancelled":
            length = len(answer.token_ids)
            assert answer.token_ids == alone.token_ids[:length]
            assert answer.logprobs == alone.logprobs[:length]
            assert length < len(alone.token_ids)
        else:
            assert answer == alone

    def _request(self, name: int) -> Request:
        pick, chance = self.random.randint, self.random.random
        length = pick(1, self.total - 1)
        shared = pick(0, length)
        prompt = tuple(self.stem[:shared] + [self.random.randrange(self.vocab) for _ in range(length - shared)])
        max_tokens = None if chance() < 0.1 else pick(1, min(self.total - length, 16))
        n = pick(1, 3) if chance() < 0.3 else 1
        params = SamplingParams(
            n=n,
            best_of=n + 1 if chance() < 0.1 else None,
            temperature=self.random.choice((0.0, 1.0)),
            repetition_penalty=self.random.choice((1.0, 1.0, 1.2)),
            seed=self.random.getrandbits(64),
            max_tokens=max_tokens,
            min_tokens=pick(0, max_tokens) if max_tokens and chance() < 0.3 else 0,
            stop_token_ids=tuple(self._tokens(1)) if chance() < 0.3 else (),
            ignore_eos=chance() < 0.2,
            bad_word_ids=tuple(tuple(self._tokens(pick(1, 2))) for _ in range(pick(0, 2))),
            logit_bias={self._tokens(1)[0]: float("-inf")} if chance() < 0.2 else {},
            logprobs=self.random.choice((None, 0, 2)),
            prompt_logprobs=self.random.choice((None, None, 1)),
            prompt_logprobs_start=pick(0, length + 1) if chance() < 0.5 else 0,
        )
        ends = tuple(self._tokens(1)) if chance() < 0.5 else ()
        return Request(f"request-{name}", prompt, params, ends, priority=self.random.choice((0, 0, 0, 1, -1)))

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(self.vocab) for _ in range(count)]

"""Generating in the caller's thread: requests of prompts, their outputs, and the next tokens for beam search."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import RequestError
from inflight.progress import progress_bar
from inflight.runtime.beam_search.requests import check_beams, found_deltas, search_of
from inflight.runtime.beam_search.search import (
    Beam,
    BeamSearchOutput,
    BeamSearchParams,
    BeamSearchSequence,
    Search,
    check_search,
    run,
)
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.executors.base import Executor
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.offline.batch_runner import BatchRunner
from inflight.runtime.offline.chat_jobs import Job
from inflight.runtime.offline.collector import RequestCollector, counted
from inflight.runtime.request.outputs import Logprob, RequestOutput
from inflight.runtime.request.prompts import PromptTokens
from inflight.runtime.request.request import Request
from inflight.runtime.request.validation import check_request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import TokenIdsOnly, Tokenizer
from inflight.runtime.text.words import with_bad_word_ids


class GenerationRunner:
    """What LLM.generate, chat and beam_search do. `seed`: of the seeds of requests that have none; None draws them."""

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        config: SchedulerConfig,
        offload: KvOffload | None,
        seed: int | None,
    ) -> None:
        self._manifest: EngineManifest = executor.manifest
        self._tokenizer = tokenizer
        self._ids = itertools.count()
        self._seeds = None if seed is None else random.Random(seed)
        grammars = None
        if not isinstance(tokenizer, TokenIdsOnly):
            grammars = GrammarCompiler(lambda: tokenizer, self._manifest)
        self._runner = BatchRunner(executor, config, grammars, offload)

    def generate(
        self,
        jobs: Sequence[Job],
        use_tqdm: bool,
        stream: bool,
        priority: int | Sequence[int],
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        priorities = [priority] * len(jobs) if isinstance(priority, int) else list(priority)
        if len(priorities) != len(jobs):
            raise RequestError(
                f"There are {len(jobs)} prompts but {len(priorities)} priorities.",
                "Give one for all, or one for each.",
            )
        collectors = [self._collector(job, stream, first) for job, first in zip(jobs, priorities, strict=True)]
        searching = [each for each in collectors if each.request.beams is not None]
        outputs = self._runner.run([each for each in collectors if each.request.beams is None])
        if stream:
            return outputs
        with progress_bar("Generating", total=len(jobs), enabled=use_tqdm) as advance:
            finished = {output.request_id: output for output in counted(outputs, advance)}
            if searching:
                found = self._search(searching)
                finished |= {output.request_id: output for output in counted(found, advance)}
        return [finished[each.request.request_id] for each in collectors]

    def _search(self, collectors: Sequence[RequestCollector]) -> Iterator[RequestOutput]:
        """The outputs of checked requests for beams, all of which go on together."""
        longest = self._manifest.limits.max_seq_len
        searches: list[Search[Logprob]] = [search_of(each.request, longest) for each in collectors]
        run(searches, self._next_tokens)
        for collector, search in zip(collectors, searches, strict=True):
            for delta in found_deltas(collector.request, search, "length", _result):
                collector.push(delta)
            yield collector.outputs.pop()

    def _next_tokens(self, sequences: Sequence[tuple[int, ...]], most: int) -> list[dict[int, Logprob]]:
        asked = SamplingParams(temperature=0, max_tokens=1, logprobs=min(most, self._manifest.model.vocab_size))
        jobs: list[Job] = [(PromptTokens(None, each), asked, None) for each in sequences]
        return [(output.outputs[0].logprobs or [{}])[0] for output in self.generate(jobs, False, False, 0)]

    def beam_search(
        self, prompts: Sequence[PromptTokens], params: BeamSearchParams, use_tqdm: bool
    ) -> list[BeamSearchOutput]:
        """Raises RequestError, before anything runs, for a prompt without room and for too many beams."""
        ends = frozenset(() if params.ignore_eos else self._manifest.generation.end_token_ids)
        searches: list[Search[Logprob]] = [Search(params, prompt.token_ids, ends) for prompt in prompts]
        if any(prompt.cache_salt is not None for prompt in prompts):
            raise RequestError("Beam search shares the prefix cache without a salt; leave cache_salt out.")
        for search in searches:
            check_search(search, self._manifest.limits.max_seq_len)
        with progress_bar("Searching", total=params.max_tokens, enabled=use_tqdm) as advance:

            def next_tokens(sequences: Sequence[tuple[int, ...]], most: int) -> list[dict[int, Logprob]]:
                advance(1)
                return self._next_tokens(sequences, most)

            run(searches, next_tokens)
        return [BeamSearchOutput([self._found(beam, params) for beam in search.ended]) for search in searches]

    def stats(self) -> CoreStats:
        return self._runner.stats()

    def close(self) -> None:
        self._runner.close()

    def _found(self, beam: Beam[Logprob], params: BeamSearchParams) -> BeamSearchSequence:
        shown = beam.tokens if beam.ended_by is None or params.include_stop_str_in_output else beam.tokens[:-1]
        has_text = not isinstance(self._tokenizer, TokenIdsOnly)
        text = self._tokenizer.decode(shown, skip_special_tokens=False) if has_text else ""
        return BeamSearchSequence(
            tokens=list(beam.tokens),
            logprobs=beam.logprobs,
            cum_logprob=beam.total,
            text=text,
            finish_reason="length" if beam.ended_by is None else "stop",
            score=beam.score,
            stop_reason=beam.ended_by,
        )

    def _collector(self, job: Job, stream: bool, priority: int) -> RequestCollector:
        prompt, params, form = job
        if stream and params.use_beam_search:
            raise RequestError("use_beam_search cannot be streamed: which sequences are best is known at the end.")
        if stream and (params.best_of or params.n) > params.n:
            raise RequestError("best_of above n cannot be streamed: which completions are best is known at the end.")
        for stop in params.stop:
            self._tokenizer.encode(stop)  # refused by an engine without a tokenizer, which would never see it
        if prompt.cache_salt is not None:
            params = replace(params, cache_salt=prompt.cache_salt)
        if self._seeds is not None and params.seed is None:
            params = replace(params, seed=self._seeds.getrandbits(63))
        request = Request(
            request_id=str(next(self._ids)),
            prompt_token_ids=prompt.token_ids,
            params=with_bad_word_ids(self._tokenizer, params),
            end_token_ids=self._manifest.generation.end_token_ids,
            priority=priority,
        )
        if params.use_beam_search:
            if params.cache_salt is not None:
                raise RequestError("Beam search shares the prefix cache without a salt; leave cache_salt out.")
            longest = self._manifest.limits.max_seq_len
            vocab_size = self._manifest.model.vocab_size
            check_request(request, vocab_size=vocab_size, max_seq_len=longest, cache_tokens=longest)
            check_beams(request, longest)
        return RequestCollector(request, prompt.text, self._tokenizer, stream, form)


def _result(token_id: int, choice: Logprob) -> TokenResult:
    return TokenResult(token_id, choice.logprob, choice.rank)

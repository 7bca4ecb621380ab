"""An engine in this process."""

from __future__ import annotations

import itertools
import uuid
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from inflight.errors import EngineError, InflightError
from inflight.lang.backends.base import Answer, Place, Scores, finish_reason, first_difference, make_scores, spelled
from inflight.lang.choices import TokenLogprob
from inflight.lang.options import GenOptions
from inflight.lang.roles import Roles
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.offline.collector import RequestCollector
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.outputs import CompletionOutput, Logprob, RequestOutput
from inflight.runtime.request.request import Request
from inflight.runtime.request.validation import fit_max_tokens, total_room
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer

_ids = itertools.count()


class Runtime:
    """A backend over an engine that this process loads.

    model_path: an engine directory, or a model (directory or hub id), which is converted and built once and kept.
    threads, kv_cache and scheduler are those of LLM; max_total_tokens and mem_fraction_static are SGLang's names for a
    KV cache of so many tokens and for a share of the free memory. Raises InflightError for other names, which ask for
    what this engine does not do. `shutdown` frees the engine; so do leaving `with Runtime(...)` and the process's end.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        threads: int | None = None,
        kv_cache: KvCacheBudget | None = None,
        scheduler: SchedulerConfig | None = None,
        max_total_tokens: int | None = None,
        mem_fraction_static: float | None = None,
        log_level: str = "error",
        **others: Any,
    ) -> None:
        _refuse({name: value for name, value in others.items() if _asks(value)})
        if kv_cache is None:
            kv_cache = KvCacheBudget(tokens=max_total_tokens, fraction=mem_fraction_static or 0.9)
        # The compiler's side is imported where a model is given.
        from inflight.cli.engines.resolve import resolve_engine

        directory = resolve_engine(str(model_path))
        files = directory / "tokenizer"
        if not files.is_dir():
            raise EngineError(f"{directory} has no tokenizer, and programs are text.", "Build it with tokenizer files.")
        executor = load_engine(directory, threads=threads, kv_cache=kv_cache)
        self.manifest = executor.manifest
        self._tokens_per_block = executor.manifest.kv_cache.tokens_per_block
        try:
            self._tokenizer = tokenizer = load_tokenizer(files, lazily=True)
            self._most_tokens = min(self.manifest.limits.max_seq_len, executor.num_blocks * self._tokens_per_block)
            grammars = GrammarCompiler(lambda: tokenizer, self.manifest)
            self._engine = EngineThread(EngineCore(executor, scheduler, grammars=grammars))
        except BaseException:
            executor.close()
            raise
        self.roles = Roles(lambda messages, asks: tokenizer.render_chat(messages, add_generation_prompt=asks))
        self._close = weakref.finalize(self, self._engine.close)

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def generate(self, place: Place, options: GenOptions) -> list[Answer]:
        *_, output = self.run([self._request(place, options)], stream=False)
        return [self._answer(output, completion, options) for completion in output.outputs]

    def stream(self, place: Place, options: GenOptions) -> Iterator[Answer]:
        for output in self.run([self._request(place, options)], stream=True):
            completion = output.outputs[0]
            yield replace(self._answer(output, completion, options), text=_shown(completion.text_delta, options))

    def score(self, place: Place, choices: Sequence[str], unconditional: bool) -> Scores:
        before = self._encode(place)
        prompts = [self._encode(replace(place, text=place.text + choice)) for choice in choices]
        start = first_difference(before, prompts)
        self._compute(before[:start])
        tokens = self._scored(prompts, start)
        alone = self._scored([prompt[start:] for prompt in prompts], 0) if unconditional else None
        return make_scores(choices, start, tokens, alone)

    def cache_prefix(self, place: Place) -> None:
        self._compute(self._encode(place))

    def shutdown(self) -> None:
        self._close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _encode(self, place: Place) -> tuple[int, ...]:
        """The tokens of the whole text, as `LLM.generate` has them, or `LLM.chat` where it begins with a role."""
        return tuple(self._tokenizer.encode(place.text, add_special_tokens=not place.is_chat))

    def _request(self, place: Place, options: GenOptions) -> Request:
        return self.request_of(self._encode(place), options.sampling_params())

    def request_of(self, ids: tuple[int, ...], params: SamplingParams) -> Request:
        """The request to go on from `ids`, whose max_tokens is bounded by the room that there is."""
        params = fit_max_tokens(params, len(ids), total_room(params, self._most_tokens))
        # Of several runtimes in one process, each has an engine of its own; the names tell them apart in logs.
        return Request(f"{uuid.uuid4().hex[:8]}-{next(_ids)}", ids, params, self.manifest.generation.end_token_ids)

    def _compute(self, ids: tuple[int, ...]) -> None:
        """Bring a prefix into the prefix cache, which holds whole blocks."""
        if len(ids) > self._tokens_per_block:
            for _ in self.run([self.request_of(ids, SamplingParams(temperature=0, max_tokens=1))], stream=False):
                pass

    def _scored(self, prompts: Sequence[tuple[int, ...]], start: int) -> list[list[TokenLogprob]]:
        """The tokens of each of `prompts` from `start` on."""
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, prompt_logprobs_start=start)
        requests = [self.request_of(prompt, params) for prompt in prompts]
        found = {output.request_id: output for output in self.run(requests, stream=False)}
        return [prompt_tokens_of(found[request.request_id], start, self._tokenizer) for request in requests]

    def run(self, requests: Sequence[Request], stream: bool) -> Iterator[RequestOutput]:
        """The outputs of `requests` as they come. Dropping the iterator cancels what is unfinished."""
        jobs = {each.request_id: RequestCollector(each, None, self._tokenizer, stream) for each in requests}
        mailbox: SimpleQueue[TokenDelta] = SimpleQueue()
        self._engine.submit_all(requests, mailbox.put)
        try:
            while not all(job.finished for job in jobs.values()):
                delta = mailbox.get()
                if delta.failure is not None:
                    raise delta.failure
                job = jobs[delta.request_id]
                if job.push(delta):
                    self._engine.cancel(delta.request_id, delta.index)
                while job.outputs:
                    output = job.outputs.popleft()
                    if any(completion.finish_reason == "cancelled" for completion in output.outputs):
                        raise EngineError("The engine was shut down while a program ran.")
                    yield output
        finally:
            for name, job in jobs.items():
                if not job.finished:
                    self._engine.cancel(name)

    def _answer(self, output: RequestOutput, completion: CompletionOutput, options: GenOptions) -> Answer:
        count = 0 if options.shows_nothing else len(completion.token_ids)
        meta = meta_info(output, completion, count)
        if completion.logprobs is not None:
            chosen = [chosen_token(*each) for each in zip(completion.token_ids, completion.logprobs, strict=True)]
            meta["output_token_logprobs"] = [spelled(options, each) for each in chosen]
        if completion.logprobs is not None and options.num_top:
            tops = [top_tokens(entry, options.num_top) for entry in completion.logprobs]
            meta["output_top_logprobs"] = [[spelled(options, each) for each in top] for top in tops]
        if options.scores_prompt and output.prompt_logprobs is not None:
            tokens = prompt_tokens_of(output, options.logprob_start_len or 0, self._tokenizer)
            meta["input_token_logprobs"] = [spelled(options, each) for each in tokens]
        return Answer(_shown(completion.text, options), meta)


def meta_info(output: RequestOutput, completion: CompletionOutput, count: int) -> dict[str, Any]:
    """What get_meta_info says of every answer; `count`: tokens that are shown."""
    return {
        "id": output.request_id,
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": count,
        "cached_tokens": 0 if output.metrics is None else output.metrics.cached_tokens,
        "finish_reason": finish_reason(completion.finish_reason, completion.stop_reason, count),
    }


def _shown(text: str, options: GenOptions) -> str:
    return "" if options.shows_nothing else text


def chosen_token(token_id: int, entries: dict[int, Logprob]) -> TokenLogprob:
    entry = entries[token_id]
    return entry.logprob, token_id, entry.decoded_token


def top_tokens(entries: dict[int, Logprob], count: int) -> list[TokenLogprob]:
    ranked = sorted(entries.items(), key=lambda item: item[1].rank)
    return [(entry.logprob, token_id, entry.decoded_token) for token_id, entry in ranked[:count]]


def prompt_tokens_of(output: RequestOutput, start: int, tokenizer: Tokenizer) -> list[TokenLogprob]:
    pairs = list(zip(output.prompt_token_ids, output.prompt_logprobs or (), strict=True))[start:]
    return [
        (None, token_id, tokenizer.token_text(token_id)) if entries is None else chosen_token(token_id, entries)
        for token_id, entries in pairs
    ]


def _asks(value: object) -> bool:
    """Whether a setting asks for something: a tp_size of 1, for example, does not."""
    return not (value is None or value is False or (type(value) is int and value == 1))


def _refuse(asked: dict[str, Any]) -> None:
    if asked:
        name, value = next(iter(asked.items()))
        raise InflightError(
            f"Runtime has no {name} (given: {value!r}).",
            "It takes model_path, threads, kv_cache, scheduler, max_total_tokens and mem_fraction_static; what an"
            " engine is built with are options of inflight build-engine.",
        )

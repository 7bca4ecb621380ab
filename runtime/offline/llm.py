"""The offline interface: an engine directory in, text out. The names are those of vLLM's LLM class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from msgspec import UNSET

from inflight.errors import EngineError, RequestError
from inflight.progress import progress_bar
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.executors.base import Executor, PoolingExecutor
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.offline.batch_runner import BatchRunner
from inflight.runtime.offline.chat import ChatMethods, Params
from inflight.runtime.offline.chat_jobs import Job
from inflight.runtime.offline.collector import RequestCollector, counted
from inflight.runtime.request.outputs import RequestOutput
from inflight.runtime.request.prompts import Prompt, match_params, read_prompts
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams, params_over_defaults
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import TokenIdsOnly, Tokenizer, load_tokenizer
from inflight.runtime.text.words import with_bad_word_ids

# Not imported where text is generated: NumPy would double the time to open an engine.
if TYPE_CHECKING:
    from inflight.runtime.offline.pooling import PoolingRunner
    from inflight.runtime.pooling.outputs import EmbeddingRequestOutput, ScoringRequestOutput


class LLM(ChatMethods):
    """A loaded engine with its tokenizer.

    engine: an engine directory. threads: of the CPU target, None takes every core the process may use. kv_cache: what
    the KV cache may take. scheduler: policies. kv_offload_dir: where blocks that leave the KV cache are kept and found
    again, also by the next process; kv_offload_bytes: the most that its files take, 4 GiB where it is not given.
    An engine without tokenizer files takes and returns token ids only.
    Raises EngineError when the engine cannot be loaded. Close it, or use it as a context manager, to free its memory.
    """

    def __init__(
        self,
        engine: str | Path,
        *,
        threads: int | None = None,
        kv_cache: KvCacheBudget | None = None,
        scheduler: SchedulerConfig | None = None,
        kv_offload_dir: str | Path | None = None,
        kv_offload_bytes: int | None = None,
    ) -> None:
        offload = KvOffload.of(kv_offload_dir, kv_offload_bytes)
        directory = Path(engine)
        files = directory / "tokenizer"
        executor = load_engine(directory, threads=threads, kv_cache=kv_cache)
        # Pairs and truncation need a tokenizer as a whole.
        lazily = executor.manifest.pooling is UNSET
        try:
            tokenizer = load_tokenizer(files, lazily) if files.is_dir() else TokenIdsOnly()
            self._start(executor, tokenizer, scheduler, offload)
        except BaseException:
            executor.close()
            raise

    @classmethod
    def from_executor(cls, executor: Executor, tokenizer: Tokenizer, scheduler: SchedulerConfig | None = None) -> LLM:
        """An LLM over an executor that is already open; closing the LLM closes it."""
        llm = cls.__new__(cls)
        llm._start(executor, tokenizer, scheduler)
        return llm

    def _start(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        scheduler: SchedulerConfig | None,
        offload: KvOffload | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.manifest = executor.manifest
        self._ids = itertools.count()
        self._runner: BatchRunner | None = None
        self._pooling: PoolingRunner | None = None
        if executor.manifest.pooling is UNSET:
            grammars = None
            if not isinstance(tokenizer, TokenIdsOnly):
                grammars = GrammarCompiler(lambda: tokenizer, self.manifest)
            self._runner = BatchRunner(executor, scheduler or SchedulerConfig(), grammars, offload)
        elif offload is not None:
            raise EngineError("This engine generates no text: it keeps no KV cache from one request to the next.")
        else:
            from inflight.runtime.offline.pooling import PoolingRunner

            self._pooling = PoolingRunner(cast(PoolingExecutor, executor), tokenizer)

    def default_sampling_params(self, **overrides: Any) -> SamplingParams:
        """The sampling defaults of the model's generation_config.json, with `overrides`."""
        return params_over_defaults(self.manifest.generation.sampling_defaults, overrides)

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: Literal[False] = False,
        priority: int = 0,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: Literal[True],
        priority: int = 0,
    ) -> Iterator[RequestOutput]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: bool = False,
        priority: int = 0,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Complete one prompt or many; all run at once.

        prompts: text, token ids, {"prompt": text} or {"prompt_token_ids": ids}, or a list of these.
        sampling_params: one for all or one for each; None takes the model's defaults. use_tqdm: show progress on a
        terminal. stream: return an iterator over outputs as they grow (those of all prompts mixed; see `request_id`
        and `text_delta`); leaving it early cancels what is unfinished. priority: lower is served sooner.
        Returns outputs in the order of the prompts. Raises RequestError, before anything runs, when a prompt or its
        parameters cannot be served. Ctrl-C cancels everything and frees its memory.
        """
        read = read_prompts(prompts, self.tokenizer)
        matched = match_params(self._params(sampling_params), len(read))
        jobs = [(prompt, params, None) for prompt, params in zip(read, matched, strict=True)]
        return self._run(jobs, use_tqdm, stream, priority)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        use_tqdm: bool = True,
        *,
        truncate_prompt_tokens: int | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """The vectors of one text or many, in their order, of an engine of an embedding model.

        prompts: as in `generate`; text gets the tokenizer's special tokens, token ids are taken as they are.
        truncate_prompt_tokens: keep so many tokens of what is longer, -1 for all that the engine takes. dimensions: the
        first so many numbers of each vector. prompt_name: which of the model's prompts stands in front of a text.
        Raises RequestError for what cannot be embedded, before anything runs.
        """
        return self._pooling_runner().embed(prompts, use_tqdm, truncate_prompt_tokens, dimensions, prompt_name)

    def score(
        self,
        queries: str | Sequence[str],
        documents: str | Sequence[str],
        use_tqdm: bool = True,
        *,
        truncate_prompt_tokens: int | None = None,
    ) -> list[ScoringRequestOutput]:
        """The scores of pairs of texts, of an engine of a cross-encoder: one query with each document, or as many
        queries as documents. Raises RequestError for what cannot be scored, before anything runs.
        """
        return self._pooling_runner().score(queries, documents, use_tqdm, truncate_prompt_tokens)

    def stats(self) -> CoreStats:
        """Statistics of sequences and KV cache blocks after the last step."""
        return self._generating().stats()

    def close(self) -> None:
        """Free the engine's threads and memory, once no thread is inside a step. Calling it twice is harmless."""
        for runner in (self._runner, self._pooling):
            if runner is not None:
                runner.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _generating(self) -> BatchRunner:
        if self._runner is None:
            raise RequestError("This engine generates no text.", "Call embed or score.")
        return self._runner

    def _pooling_runner(self) -> PoolingRunner:
        if self._pooling is None:
            raise RequestError("This engine generates text; it makes no embeddings and no scores.", "Call generate.")
        return self._pooling

    def _params(self, given: Params | None) -> Params:
        return self.default_sampling_params() if given is None else given

    def _run(
        self, jobs: Sequence[Job], use_tqdm: bool, stream: bool, priority: int = 0
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        runner = self._generating()
        collectors = [self._collector(job, stream, priority) for job in jobs]
        outputs = runner.run(collectors)
        if stream:
            return outputs
        with progress_bar("Generating", total=len(jobs), enabled=use_tqdm) as advance:
            finished = {output.request_id: output for output in counted(outputs, advance)}
        return [finished[each.request.request_id] for each in collectors]

    def _collector(self, job: Job, stream: bool, priority: int) -> RequestCollector:
        prompt, params, form = job
        if stream and (params.best_of or params.n) > params.n:
            raise RequestError("best_of above n cannot be streamed: which completions are best is known at the end.")
        for stop in params.stop:
            self.tokenizer.encode(stop)  # refused by an engine without a tokenizer, which would never see it
        if prompt.cache_salt is not None:
            params = replace(params, cache_salt=prompt.cache_salt)
        request = Request(
            request_id=str(next(self._ids)),
            prompt_token_ids=prompt.token_ids,
            params=with_bad_word_ids(self.tokenizer, params),
            end_token_ids=self.manifest.generation.end_token_ids,
            priority=priority,
        )
        return RequestCollector(request, prompt.text, self.tokenizer, stream, form)

"""An engine that is opened for the caller's own process: loading, defaults, tokenizer, closing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import UNSET

from inflight.engine_format.manifest import PoolingFacts
from inflight.errors import EngineError, RequestError
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.executors.base import Executor, PoolingExecutor
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.loading.task import other_task
from inflight.runtime.offline.generation import GenerationRunner
from inflight.runtime.offline.options import OWN_NAMES, LLMOptions
from inflight.runtime.sampling.params import SamplingParams, params_over_defaults
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.text.tokenizer import TokenIdsOnly, Tokenizer, load_tokenizer

# Not imported where text is generated: NumPy would double the time to open an engine.
if TYPE_CHECKING:
    from inflight.runtime.offline.pooling import PoolingRunner

Opened = TypeVar("Opened", bound="OpenedEngine")


class OpenedEngine:
    """The arguments are those of LLM, which says what is done with it."""

    _defaults: dict[str, Any]
    _tokenizer_files: Path | None

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        engine: str | Path | None = None,
        threads: int | None = None,
        kv_cache: KvCacheBudget | None = None,
        scheduler: SchedulerConfig | None = None,
        kv_offload_dir: str | Path | None = None,
        kv_offload_bytes: int | None = None,
        **names: Any,
    ) -> None:
        if (model is None) == (engine is None):
            raise EngineError("LLM needs an engine or a model, once: LLM(model=...).")
        options = LLMOptions(
            cast("str | Path", engine if model is None else model),
            kv_cache,
            scheduler,
            kv_offload_dir,
            kv_offload_bytes,
            _read_names(names) if names else {},
        )
        offload = options.offload
        directory = options.directory()
        files = directory / "tokenizer"
        executor = load_engine(directory, threads=threads, kv_cache=options.budget)
        # Pairs and truncation need a tokenizer as a whole.
        lazily = executor.manifest.pooling is UNSET
        try:
            options.check_task(executor.manifest)
            has_text = files.is_dir() and not options.values.get("skip_tokenizer_init")
            tokenizer = options.with_template(load_tokenizer(files, lazily)) if has_text else TokenIdsOnly()
            self._start(executor, tokenizer, options.config, offload, options.values.get("seed"))
            self._defaults = options.defaults(executor.manifest)
            self._tokenizer_files = files if has_text else None
        except BaseException:
            executor.close()
            raise

    @classmethod
    def from_executor(
        cls: type[Opened], executor: Executor, tokenizer: Tokenizer, scheduler: SchedulerConfig | None = None
    ) -> Opened:
        """An LLM over an executor that is already open; closing the LLM closes it."""
        llm = cls.__new__(cls)
        llm._start(executor, tokenizer, scheduler or SchedulerConfig())
        return llm

    def _start(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        scheduler: SchedulerConfig,
        offload: KvOffload | None = None,
        seed: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.manifest = executor.manifest
        self._defaults = dict(executor.manifest.generation.sampling_defaults)
        self._tokenizer_files = None
        self._generation: GenerationRunner | None = None
        self._pooling: PoolingRunner | None = None
        if executor.manifest.pooling is UNSET:
            self._generation = GenerationRunner(executor, tokenizer, scheduler, offload, seed)
        elif offload is not None:
            raise EngineError("This engine generates no text: it keeps no KV cache from one request to the next.")
        else:
            from inflight.runtime.offline.pooling import PoolingRunner

            self._pooling = PoolingRunner(cast(PoolingExecutor, executor), tokenizer)

    def default_sampling_params(self, **overrides: Any) -> SamplingParams:
        """The sampling defaults of the model's generation_config.json, with `overrides`."""
        return params_over_defaults(self._defaults, overrides)

    def get_default_sampling_params(self) -> SamplingParams:
        """`default_sampling_params`, under vLLM's name."""
        return self.default_sampling_params()

    def get_tokenizer(self, lora_request: None = None) -> Any:
        """The model's tokenizer as transformers has it, which is imported here; `llm.tokenizer` is the one that runs.

        Raises RequestError for an engine without a tokenizer.
        """
        if self._tokenizer_files is None:
            raise RequestError("This engine has no tokenizer: it takes and returns token ids.")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._tokenizer_files)

    def stats(self) -> CoreStats:
        """Statistics of sequences and KV cache blocks after the last step."""
        return self._generating().stats()

    def close(self) -> None:
        """Free the engine's threads and memory, once no thread is inside a step. Calling it twice is harmless."""
        for runner in (self._generation, self._pooling):
            if runner is not None:
                runner.close()

    def shutdown(self, timeout: float | None = None) -> None:
        """`close`, under vLLM's name."""
        self.close()

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    if not TYPE_CHECKING:  # to a type checker every name would be there

        def __getattr__(self, name: str) -> Any:
            from inflight.migration.methods import missing

            missing(name)

    def _generating(self) -> GenerationRunner:
        if self._generation is None:
            raise other_task(cast(PoolingFacts, self.manifest.pooling))
        return self._generation

    def _pooling_runner(self) -> PoolingRunner:
        if self._pooling is None:
            raise RequestError("This engine generates text; it makes no embeddings and no scores.", "Call generate.")
        return self._pooling


def _read_names(names: Mapping[str, Any]) -> dict[str, Any]:
    from inflight.migration.keywords import read_keywords
    from inflight.migration.sources import VLLM_OFFLINE

    return read_keywords(names, VLLM_OFFLINE, OWN_NAMES)

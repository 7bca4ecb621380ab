"""What LLM is opened with: its own names, and those of vLLM's engine."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import UNSET

from inflight.engine_format.manifest import MANIFEST_NAME, EngineManifest
from inflight.errors import EngineError
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.loading.load import KvCacheBudget
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.text.chat.given_template import load_chat_template
from inflight.runtime.text.tokenizer import Tokenizer

# Of the engine of a model: options of inflight convert and build-engine.
_BUILD = ("dtype", "quantize", "group_size", "dequantize", "score_tokens", "target", "revision")
_RECIPE = (
    "max_seq_len",
    "max_batch_size",
    "max_num_tokens",
    "max_logit_rows",
    "tokens_per_block",
    "kv_cache_dtype",
    "kv_cache_type",
    "cpu",
)
_CACHE = {"kv_cache_fraction": "fraction", "kv_cache_bytes": "bytes", "kv_cache_tokens": "tokens"}
OWN_NAMES = frozenset((*_BUILD, *_RECIPE, *_CACHE))

# Found by name: where engines are only run, neither converter nor compiler is installed.
_MAKER = "inflight.cli.engines.request"
_GENERATES, _ANY = "generate", "auto"
_TASKS = {
    "embed": ("embed",),
    "embedding": ("embed",),
    "score": ("score",),
    "classify": ("score", "classify"),
    "token_classify": ("token_classify",),
    "token_embed": ("embed",),
    "pooling": ("embed", "score", "classify", "token_classify"),
    "reward": ("score",),
}


@dataclass(frozen=True, slots=True)
class LLMOptions:
    """`values`: further names, as `inflight.migration` reads those of vLLM."""

    model: str | Path
    kv_cache: KvCacheBudget | None
    scheduler: SchedulerConfig | None
    kv_offload_dir: str | Path | None
    kv_offload_bytes: int | None
    values: Mapping[str, Any]

    def directory(self) -> Path:
        """The engine, which is converted and built where a model is named. Raises what that raises, and InflightError
        for an engine that is not as asked."""
        asked = {name: self.values[name] for name in _BUILD if name in self.values}
        recipe = {name: self.values[name] for name in _RECIPE if name in self.values}
        path = Path(self.model).expanduser()
        tokenizer = self.values.get("tokenizer")
        if tokenizer is not None and str(tokenizer) != str(self.model):
            raise EngineError(
                f"tokenizer is {tokenizer}: an engine has the tokenizer that its model came with.",
                "Put the other one's files into a copy of the model's directory, and give that as model.",
            )
        if not asked and not recipe and (path / MANIFEST_NAME).is_file():
            return path
        if "cpu" in recipe and isinstance(recipe["cpu"], str):
            recipe["cpu"] = (recipe["cpu"],)
        maker = importlib.import_module(_MAKER)
        request = maker.EngineRequest(model=str(self.model), recipe=recipe, name_of=str, **asked)
        with _token(self.values.get("hf_token")):
            return Path(request.engine())

    @property
    def budget(self) -> KvCacheBudget | None:
        limits = {field: self.values[name] for name, field in _CACHE.items() if name in self.values}
        if limits and self.kv_cache is not None:
            raise EngineError(
                "The size of the KV cache is given twice: kv_cache, and one by name.", "Give kv_cache alone."
            )
        if "bytes" in limits:
            limits["bytes"] = int(limits["bytes"])
        return KvCacheBudget(**limits) if limits else self.kv_cache

    @property
    def config(self) -> SchedulerConfig:
        config = self.scheduler or SchedulerConfig()
        prefixes = self.values.get("enable_prefix_caching")
        return config if prefixes is None else replace(config, enable_prefix_caching=bool(prefixes))

    @property
    def offload(self) -> KvOffload | None:
        gib = self.values.get("kv_offloading_size")
        most = self.kv_offload_bytes if gib is None else round(float(gib) * 2**30)
        return KvOffload.of(self.kv_offload_dir, most)

    def defaults(self, manifest: EngineManifest) -> dict[str, Any]:
        """Sampling parameters of a request that names none: those of the model, and what stands over them."""
        config = self.values.get("generation_config", "auto")
        if config not in ("auto", "vllm"):
            raise EngineError(
                f"generation_config is {config!r}; it is auto (the model's own) or vllm (none).",
                "Give others as override_generation_config={...}.",
            )
        own = dict(manifest.generation.sampling_defaults) if config == "auto" else {}
        over = dict(self.values.get("override_generation_config") or {})
        if "max_new_tokens" in over:
            over["max_tokens"] = over.pop("max_new_tokens")
        return own | over

    def with_template(self, tokenizer: Tokenizer) -> Tokenizer:
        """`tokenizer` with the chat template that was given. Raises InflightError for one that cannot be read."""
        source = load_chat_template(self.values.get("chat_template"))
        return tokenizer if source is None else tokenizer.with_chat_template(source)

    def check_task(self, manifest: EngineManifest) -> None:
        """Raises EngineError when the engine does another thing than the one that was asked for."""
        asked = str(self.values.get("task", _ANY))
        has = _GENERATES if manifest.pooling is UNSET else manifest.pooling.task
        if asked in (_ANY, "draft", has) or has in _TASKS.get(asked, ()):
            return
        raise EngineError(
            f"task is {asked}; this model is made to {has}.",
            "What a model does is said by its files (docs/formats/embeddings.md). Leave it out.",
        )


@contextmanager
def _token(token: str | bool | None) -> Iterator[None]:
    """The token of huggingface_hub, which reads it from the environment; True stands for the one that is there."""
    if not isinstance(token, str):
        yield
        return
    before = os.environ.get("HF_TOKEN")
    os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_TOKEN"]
        else:
            os.environ["HF_TOKEN"] = before

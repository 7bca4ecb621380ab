"""Embedding and scoring in the caller's thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from inflight.errors import RequestError
from inflight.progress import progress_bar
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.offline.interrupts import deferred_interrupt
from inflight.runtime.pooling.outputs import (
    EmbeddingOutput,
    EmbeddingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from inflight.runtime.pooling.steps import TextSteps
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import Floats, activated, shortened
from inflight.runtime.request.prompts import Prompt, as_list
from inflight.runtime.text.tokenizer import Tokenizer


class PoolingRunner:
    """What LLM.embed and LLM.score do. Several threads may call at once; one steps at a time."""

    def __init__(self, executor: PoolingExecutor, tokenizer: Tokenizer) -> None:
        self._steps = TextSteps(executor)
        self._reader = TextReader(executor.manifest, tokenizer)
        self._ids = itertools.count()
        self._lock = threading.Lock()

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        use_tqdm: bool,
        truncate_prompt_tokens: int | None,
        dimensions: int | None,
        prompt_name: str | None,
    ) -> list[EmbeddingRequestOutput]:
        self._refuse_other_than("embed")
        size = self._steps.facts.vector_size
        if dimensions is not None and not 1 <= dimensions <= size:
            raise RequestError(f"dimensions is {dimensions}; this model's vectors have {size}.")
        prefix = self._reader.prompt(prompt_name)
        texts = [self._read(each, truncate_prompt_tokens, prefix) for each in as_list(prompts)]
        outputs = []
        for text, vector in zip(texts, self._run(texts, use_tqdm), strict=True):
            cut = vector if dimensions is None else shortened(vector, dimensions, self._steps.facts)
            outputs.append(EmbeddingRequestOutput(str(next(self._ids)), EmbeddingOutput(cut.tolist()), text.token_ids))
        return outputs

    def score(
        self, queries: str | Sequence[str], documents: str | Sequence[str], use_tqdm: bool, truncate: int | None
    ) -> list[ScoringRequestOutput]:
        self._refuse_other_than("score")
        firsts, seconds = ([each] if isinstance(each, str) else list(each) for each in (queries, documents))
        if len(firsts) == 1:
            firsts = firsts * len(seconds)
        if len(firsts) != len(seconds):
            raise RequestError(
                f"There are {len(firsts)} queries and {len(seconds)} documents.",
                "Give one query for all documents, or one for each.",
            )
        texts = [self._reader.pair(*pair, truncate=truncate) for pair in zip(firsts, seconds, strict=True)]
        found = zip(texts, self._run(texts, use_tqdm), strict=True)
        return [
            ScoringRequestOutput(
                str(next(self._ids)), ScoringOutput(activated(float(scores[0]), self._steps.facts)), text.token_ids
            )
            for text, scores in found
        ]

    def close(self) -> None:
        with self._lock:
            self._steps.close()

    def _refuse_other_than(self, task: str) -> None:
        if self._steps.facts.task != task:
            does = {"embed": "makes vectors of texts: call embed", "score": "scores pairs of texts: call score"}
            raise RequestError(f"This engine {does[self._steps.facts.task]}.")

    def _read(self, prompt: Any, truncate: int | None, prefix: str) -> TokenizedText:
        if isinstance(prompt, dict):
            ids = prompt.get("prompt_token_ids")
            prompt = prompt.get("prompt") if ids is None else ids
        if isinstance(prompt, str):
            return self._reader.text(prompt, truncate=truncate, prompt=prefix)
        if isinstance(prompt, Sequence) and all(isinstance(token, int) for token in prompt):
            return self._reader.ids(prompt, truncate=truncate)
        raise RequestError(
            f"A prompt is {type(prompt).__name__}.",
            'A prompt is a string, a list of token ids, {"prompt": "..."} or {"prompt_token_ids": [...]}.',
        )

    def _run(self, texts: Sequence[TokenizedText], use_tqdm: bool) -> list[Floats]:
        found: list[Floats] = []
        with progress_bar("Embedding", total=len(texts), enabled=use_tqdm) as advance:
            while len(found) < len(texts):
                with deferred_interrupt(), self._lock:
                    count = self._steps.count_fitting(itertools.islice(texts, len(found), None))
                    found += self._steps.run(texts[len(found) : len(found) + count])
                advance(count)
        return found

"""Embedding and scoring in the caller's thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from inflight.errors import RequestError, placed
from inflight.progress import progress_bar
from inflight.runtime.executors.base import PoolingExecutor
from inflight.runtime.loading.task import other_task
from inflight.runtime.offline.interrupts import deferred_interrupt
from inflight.runtime.pooling.asked import Numbers, as_asked
from inflight.runtime.pooling.outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from inflight.runtime.pooling.params import TOKEN_EMBED, Given, PoolingParams, params_for_each
from inflight.runtime.pooling.steps import TextSteps
from inflight.runtime.pooling.texts import TextReader, TokenizedText
from inflight.runtime.pooling.vectors import Floats, cosine
from inflight.runtime.request.given import GivenPrompt, given_prompts, given_texts
from inflight.runtime.request.prompts import Prompt, Text
from inflight.runtime.text.tokenizer import Tokenizer


class PoolingRunner:
    """What LLM.encode, embed, classify and score do. Several threads may call at once; one steps at a time."""

    def __init__(self, executor: PoolingExecutor, tokenizer: Tokenizer) -> None:
        self._steps = TextSteps(executor)
        self._reader = TextReader(executor.manifest, tokenizer)
        self._ids = itertools.count()
        self._lock = threading.Lock()

    def encode(
        self, prompts: Prompt | Sequence[Prompt], params: Given, use_tqdm: bool, truncate: int | None, task: str | None
    ) -> list[PoolingRequestOutput]:
        """A vector or a score, whichever the engine makes, or the vectors or scores of each token."""
        listed = _some(given_prompts(prompts), "prompts")
        each = params_for_each(params, len(listed), truncate_prompt_tokens=truncate, task=task)
        for one in each:
            one.check(self._steps.facts.task, each_token=True)
        if any(one.task == TOKEN_EMBED for one in each):
            self._reader.check_each_token()
        found = self._of_texts(listed, each, use_tqdm, None, each_token=True)
        return [
            PoolingRequestOutput(self._next_id(), PoolingOutput(np.asarray(vector, np.float32)), text.token_ids)
            for text, vector in found
        ]

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Given,
        use_tqdm: bool,
        truncate_prompt_tokens: int | None,
        dimensions: int | None,
        prompt_name: str | None,
    ) -> list[EmbeddingRequestOutput]:
        self._refuse_other_than("embed")
        listed = _some(given_prompts(prompts), "prompts")
        more = {"truncate_prompt_tokens": truncate_prompt_tokens, "dimensions": dimensions}
        found = self._of_texts(listed, params_for_each(params, len(listed), **more), use_tqdm, prompt_name)
        return [
            EmbeddingRequestOutput(self._next_id(), EmbeddingOutput(vector.tolist()), text.token_ids)
            for text, vector in found
        ]

    def classify(
        self, prompts: Prompt | Sequence[Prompt], params: Given, use_tqdm: bool, truncate: int | None
    ) -> list[ClassificationRequestOutput]:
        self._refuse_other_than("classify", "score")
        listed = _some(given_prompts(prompts), "prompts")
        each = params_for_each(params, len(listed), truncate_prompt_tokens=truncate)
        found = self._of_texts(listed, each, use_tqdm, None)
        return [
            ClassificationRequestOutput(self._next_id(), ClassificationOutput(scores.tolist()), text.token_ids)
            for text, scores in found
        ]

    def score(
        self,
        queries: Text | Sequence[Text],
        documents: Text | Sequence[Text],
        params: Given,
        use_tqdm: bool,
        truncate: int | None,
        instruction: str | None,
    ) -> list[ScoringRequestOutput]:
        """Of a cross-encoder its scores; of an embedding model the cosine of the angle between two vectors."""
        self._refuse_other_than("score", "embed")
        firsts = _some(given_texts(queries, "queries"), "queries")
        seconds = _some(given_texts(documents, "documents"), "documents")
        if len(firsts) not in (1, len(seconds)):
            raise RequestError(
                f"There are {len(firsts)} queries and {len(seconds)} documents.",
                "Give one query for all documents, or one for each.",
            )
        each = params_for_each(params, len(seconds), truncate_prompt_tokens=truncate)
        self._reader.check_instruction(instruction)
        if self._steps.facts.task == "embed":
            return self._cosines(firsts, seconds, each, use_tqdm)
        firsts = firsts if len(firsts) == len(seconds) else firsts * len(seconds)
        texts = [
            self._read_pair(first, second, one.truncate_prompt_tokens, instruction)
            for first, second, one in zip(firsts, seconds, each, strict=True)
        ]
        return [
            ScoringRequestOutput(self._next_id(), ScoringOutput(float(scores[0])), text.token_ids)
            for text, scores in self._found(texts, each, use_tqdm)
        ]

    def close(self) -> None:
        with self._lock:
            self._steps.close()

    def _cosines(
        self, firsts: list[GivenPrompt], seconds: list[GivenPrompt], params: list[PoolingParams], use_tqdm: bool
    ) -> list[ScoringRequestOutput]:
        found = self._of_texts([*firsts, *seconds], [*params[: len(firsts)], *params], use_tqdm, None)
        one, other = found[: len(firsts)], found[len(firsts) :]
        one = one if len(one) == len(other) else one * len(other)
        return [
            ScoringRequestOutput(
                self._next_id(),
                ScoringOutput(cosine(first, second)),
                (*text.token_ids, *beside.token_ids),
            )
            for (text, first), (beside, second) in zip(one, other, strict=True)
        ]

    def _next_id(self) -> str:
        return str(next(self._ids))

    def _of_texts(
        self,
        prompts: Sequence[GivenPrompt],
        params: Sequence[PoolingParams],
        use_tqdm: bool,
        prompt_name: str | None,
        each_token: bool = False,
    ) -> list[tuple[TokenizedText, Numbers]]:
        prefix = self._reader.prompt(prompt_name)
        texts = [
            self._read(each, one.truncate_prompt_tokens, prefix) for each, one in zip(prompts, params, strict=True)
        ]
        if each_token:
            pairs = zip(texts, params, strict=True)
            texts = [replace(text, each_token=True) if one.task == TOKEN_EMBED else text for text, one in pairs]
        return self._found(texts, params, use_tqdm)

    def _found(
        self, texts: Sequence[TokenizedText], params: Sequence[PoolingParams], use_tqdm: bool
    ) -> list[tuple[TokenizedText, Numbers]]:
        """What becomes of each text, as its parameters have it; those are checked before anything runs."""
        size, task = self._steps.facts.vector_size, self._steps.facts.task
        for text, each in zip(texts, params, strict=True):
            each.check(task, text.each_token)
            if each.dimensions is not None and not 1 <= each.dimensions <= size:
                raise RequestError(f"dimensions is {each.dimensions}; this model's vectors have {size}.")
        vectors = self._run(texts, [each.normalize for each in params], use_tqdm)
        return [
            (text, as_asked(vector, one, self._steps.facts))
            for text, vector, one in zip(texts, vectors, params, strict=True)
        ]

    def _refuse_other_than(self, *tasks: str) -> None:
        if self._steps.facts.task not in tasks:
            raise other_task(self._steps.facts)

    def _read(self, prompt: GivenPrompt, truncate: int | None, prefix: str) -> TokenizedText:
        with placed(prompt.place):
            if prompt.token_ids is None:
                return self._reader.text(prompt.text or "", truncate=truncate, prompt=prefix)
            return self._reader.ids(prompt.token_ids, truncate=truncate)

    def _read_pair(
        self, first: GivenPrompt, second: GivenPrompt, truncate: int | None, instruction: str | None
    ) -> TokenizedText:
        query, document = first.text or "", second.text or ""
        with placed(first.place):
            self._reader.check_text(query, "The query")
        with placed(second.place):
            return self._reader.pair(query, document, truncate=truncate, instruction=instruction)

    def _run(self, texts: Sequence[TokenizedText], normalize: Sequence[bool | None], use_tqdm: bool) -> list[Floats]:
        found: list[Floats] = []
        with progress_bar("Embedding", total=len(texts), enabled=use_tqdm) as advance:
            while len(found) < len(texts):
                with deferred_interrupt(), self._lock:
                    count = self._steps.count_fitting(itertools.islice(texts, len(found), None))
                    end = len(found) + count
                    found += self._steps.run(texts[len(found) : end], normalize[len(found) : end])
                advance(count)
        return found


def _some(given: list[GivenPrompt], name: str) -> list[GivenPrompt]:
    """As in vLLM, an empty list is a mistake here, as in the API; LLM.generate has no outputs for no prompts."""
    if not given:
        raise RequestError(f"{name} is an empty list.", "Give at least one text.")
    return given

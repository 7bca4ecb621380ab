"""The offline interface: an engine or a model in, text out. The names are those of vLLM's LLM class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from inflight.runtime.beam_search.search import BeamSearchOutput, BeamSearchParams
from inflight.runtime.offline.calls import at_position, foreign_call, prompts_of
from inflight.runtime.offline.chat import ChatMethods, Params
from inflight.runtime.offline.chat_jobs import Job
from inflight.runtime.offline.opened import OpenedEngine
from inflight.runtime.request.outputs import RequestOutput
from inflight.runtime.request.prompts import Prompt, Text, match_params, read_prompts

# Not imported where text is generated: NumPy would double the time to open an engine.
if TYPE_CHECKING:
    from inflight.runtime.pooling.outputs import (
        ClassificationRequestOutput,
        EmbeddingRequestOutput,
        PoolingRequestOutput,
        ScoringRequestOutput,
    )
    from inflight.runtime.pooling.params import Given as PoolingGiven


class LLM(OpenedEngine, ChatMethods):
    """A loaded engine with its tokenizer.

    model: an engine directory, or a model (directory, hub id, GGUF file), which is converted and built first and kept
    for the next time; `engine` is the same. threads: of the CPU target, None takes every core the process may use.
    kv_cache: what the KV cache may take. scheduler: policies. kv_offload_dir: where blocks that leave the KV cache are
    kept and found again, also by the next process; kv_offload_bytes: the most that its files take, 4 GiB where it is
    not given, or, without a directory, the most memory beside the cache for such blocks. names: options of
    `inflight convert` and `build-engine` (quantize, max_seq_len and others), of a model or as the engine has them, and
    all that vLLM's LLM takes: honoured, without effect, which a warning says once, or refused with the reason
    (docs/migration.md).
    An engine without tokenizer files takes and returns token ids only.
    Raises EngineError when the engine cannot be loaded. Close it, or use it as a context manager, to free its memory.
    """

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: Literal[False] = False,
        priority: int | Sequence[int] = 0,
        **names: Any,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: Literal[True],
        priority: int | Sequence[int] = 0,
        **names: Any,
    ) -> Iterator[RequestOutput]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: Params | None = None,
        use_tqdm: bool = True,
        *,
        stream: bool = False,
        priority: int | Sequence[int] | None = 0,
        **names: Any,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Complete one prompt or many; all run at once.

        prompts: text, token ids, {"prompt": text} (or "text") or {"prompt_token_ids": ids}, or a list of these; as in
        vLLM's older versions token ids may also come as prompt_token_ids=. sampling_params: one for all or one for
        each; None takes the model's defaults. use_tqdm: show progress on a terminal. stream: return an iterator over
        outputs as they grow (those of all prompts mixed; see `request_id` and `text_delta`); leaving it early cancels
        what is unfinished. priority: lower is served sooner; one for all or one for each.
        Returns outputs in the order of the prompts. Raises RequestError, before anything runs, when a prompt or its
        parameters cannot be served. Ctrl-C cancels everything and frees its memory.
        """
        use_tqdm, names = at_position(use_tqdm, names)
        read = read_prompts(prompts_of(prompts, names), self.tokenizer)
        matched = match_params(self._params(sampling_params), len(read))
        jobs = [(prompt, params, None) for prompt, params in zip(read, matched, strict=True)]
        return self._run(jobs, use_tqdm, stream, priority or 0)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        use_tqdm: bool = False,
        **names: Any,
    ) -> list[BeamSearchOutput]:
        """The params.beam_width likeliest sequences behind each prompt, as transformers' beam search finds them.

        Every step is a batch of all beams of all prompts, which share their prefixes through the prefix cache.
        Raises RequestError, before anything runs, when a prompt has no room or there are too many beams.
        """
        foreign_call("beam_search", names)
        return self._generating().beam_search(read_prompts(prompts, self.tokenizer), params, use_tqdm)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        use_tqdm: bool = True,
        *,
        pooling_params: PoolingGiven = None,
        truncate_prompt_tokens: int | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        **names: Any,
    ) -> list[EmbeddingRequestOutput]:
        """The vectors of one text or many, in their order, of an engine of an embedding model.

        prompts: as in `generate`; text gets the tokenizer's special tokens, token ids are taken as they are.
        truncate_prompt_tokens: keep so many tokens of what is longer, -1 for all that the engine takes. dimensions: the
        first so many numbers of each vector. prompt_name: which of the model's prompts stands in front of a text.
        pooling_params: PoolingParams of all texts, or a list of one for each.
        Raises RequestError for what cannot be embedded, before anything runs.
        """
        foreign_call("embed", names)
        more = (truncate_prompt_tokens, dimensions, prompt_name)
        return self._pooling_runner().embed(prompts, pooling_params, use_tqdm, *more)

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        pooling_params: PoolingGiven = None,
        *,
        use_tqdm: bool = True,
        truncate_prompt_tokens: int | None = None,
        pooling_task: str | None = None,
        **names: Any,
    ) -> list[PoolingRequestOutput]:
        """What the engine makes of one text or many, as `outputs.data`: vectors, or a classifier's numbers.

        pooling_task: "embed", "classify", "score" or "token_classify", the engine's own; or of one that embeds
        "token_embed": the vectors of single tokens, as those of texts are but that nothing is pooled. Of tokens
        `outputs.data` is [tokens, size], special ones too. Otherwise as `embed`.
        """
        foreign_call("encode", names)
        runner = self._pooling_runner()
        return runner.encode(prompts, pooling_params, use_tqdm, truncate_prompt_tokens, pooling_task)

    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling_params: PoolingGiven = None,
        use_tqdm: bool = True,
        truncate_prompt_tokens: int | None = None,
        **names: Any,
    ) -> list[ClassificationRequestOutput]:
        """The probabilities of the classes of one text or many, of an engine of a classifier, in the order of its
        labels; a cross-encoder has one. The arguments are those of `embed`. Raises RequestError for what cannot be
        classified, before anything runs.
        """
        foreign_call("classify", names)
        return self._pooling_runner().classify(prompts, pooling_params, use_tqdm, truncate_prompt_tokens)

    def score(
        self,
        queries: Text | Sequence[Text],
        documents: Text | Sequence[Text],
        use_tqdm: bool = True,
        *,
        pooling_params: PoolingGiven = None,
        truncate_prompt_tokens: int | None = None,
        instruction: str | None = None,
        **names: Any,
    ) -> list[ScoringRequestOutput]:
        """The scores of pairs of texts: one query with each document, or as many queries as documents. A text may also
        be {"text": text}. An engine of an embedding model gives the cosine of the angle between the vectors.
        `instruction`: what makes a document the right one, to a model that takes one, as Qwen3-Reranker does. Raises
        RequestError for what cannot be scored, before anything runs.
        """
        foreign_call("score", names)
        runner = self._pooling_runner()
        return runner.score(queries, documents, pooling_params, use_tqdm, truncate_prompt_tokens, instruction)

    def _params(self, given: Params | None) -> Params:
        return self.default_sampling_params() if given is None else given

    def _run(
        self, jobs: Sequence[Job], use_tqdm: bool, stream: bool, priority: int | Sequence[int] = 0
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        return self._generating().generate(jobs, use_tqdm, stream, priority)

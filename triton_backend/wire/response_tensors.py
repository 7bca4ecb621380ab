"""A chunk of one sequence as the output tensors of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inflight.runtime.request.deltas import RequestMetrics
from inflight.runtime.scheduler.step import TokenResult
from inflight.triton_backend.tensorrt_llm.generation_request import GenerationRequest, Wanted
from inflight.triton_backend.tensorrt_llm.sequence_output import Chunk
from inflight.triton_backend.wire.request_tensors import Array

PAD_TOKEN = -1


def response_tensors(chunk: Chunk, generation: GenerationRequest, batch_index: int | None) -> dict[str, Array]:
    """Output name -> array with a batch dimension of 1. `batch_index` None: the request has one row."""
    delta, request, wanted = chunk.delta, generation.request, generation.wanted
    prompt = request.prompt_token_ids if wanted.include_prompt else ()
    ids = [*prompt, *delta.token_ids]
    tensors = {
        "output_ids": np.array([[ids]], dtype=np.int32).reshape(1, 1, len(ids)),
        "sequence_length": _integer(len(ids)),
    }
    if batch_index is not None:
        tensors["batch_index"] = _integer(batch_index)
    if request.num_sequences > 1:
        tensors["sequence_index"] = _integer(delta.index)
    if request.params.logprobs is not None:
        tensors |= _log_probs(chunk, wanted.log_probs, request.params.logprobs)
    if delta.prompt_logprobs is not None:
        tensors |= _prompt_log_probs(delta.prompt_logprobs, request.params.prompt_logprobs or 0)
    if wanted.perf_metrics and delta.metrics is not None:
        tensors |= _perf_metrics(delta.metrics)
    return tensors | _counts_and_reasons(chunk, wanted, len(request.prompt_token_ids))


def _counts_and_reasons(chunk: Chunk, wanted: Wanted, num_input_tokens: int) -> dict[str, Array]:
    """num_output_tokens counts the tokens of this response: clients that stream add them up."""
    tensors: dict[str, Array] = {}
    delta = chunk.delta
    if wanted.num_input_tokens:
        tensors["num_input_tokens"] = _integer(num_input_tokens)
    if wanted.num_cached_tokens and delta.cached_tokens is not None:
        tensors["num_cached_tokens"] = _integer(delta.cached_tokens)
    if wanted.num_output_tokens:
        tensors["num_output_tokens"] = _integer(len(delta.token_ids))
    if wanted.finish_reason and delta.finish_reason is not None:
        tensors["finish_reason"] = _string(delta.finish_reason)
    if wanted.stop_reason and delta.stop_reason is not None:
        tensors["stop_reason"] = _string(str(delta.stop_reason))
    if wanted.decode_context:
        tensors["decode_context"] = np.array([chunk.context], dtype=np.int32).reshape(1, len(chunk.context))
        tensors["decode_final"] = np.array([[delta.finish_reason is not None]])
    return tensors


def _log_probs(chunk: Chunk, all_so_far: bool, num_top: int) -> dict[str, Array]:
    """output_log_probs: of all the tokens so far, because clients of TensorRT-LLM keep those of the last response. One
    that asks by num_logprobs alone gets those of this response's tokens, as of the other outputs."""
    results = chunk.delta.logprobs
    logprobs = chunk.logprobs if all_so_far else [result.logprob for result in results]
    tensors: dict[str, Array] = {
        "cum_log_probs": np.array([[chunk.cumulative_logprob]], dtype=np.float32),
        "output_log_probs": np.array(logprobs, dtype=np.float32).reshape(1, 1, -1),
        "logprob_ranks": np.array([result.rank for result in results], dtype=np.int32).reshape(1, -1),
    }
    if num_top:
        tensors["top_token_ids"], tensors["top_log_probs"] = _top(results, num_top)
    return tensors


def _prompt_log_probs(entries: Sequence[TokenResult | None], num_top: int) -> dict[str, Array]:
    """Of the last prompt tokens: the first has no probability, nor those before prompt_logprobs_start."""
    results = [entry for entry in entries if entry is not None]
    tensors: dict[str, Array] = {
        "prompt_log_probs": np.array([[result.logprob for result in results]], dtype=np.float32),
        "prompt_logprob_ranks": np.array([[result.rank for result in results]], dtype=np.int32),
    }
    if num_top:
        tensors["prompt_top_token_ids"], tensors["prompt_top_log_probs"] = _top(results, num_top)
    return tensors


def _top(results: Sequence[TokenResult], count: int) -> tuple[Array, Array]:
    """INT32 and FP32 [1, tokens, count], most likely first; places that nothing fills hold token -1."""
    ids = np.full((1, len(results), count), PAD_TOKEN, dtype=np.int32)
    values = np.full((1, len(results), count), -np.inf, dtype=np.float32)
    for row, result in enumerate(results):
        for column, (token_id, logprob) in enumerate(result.top[:count]):
            ids[0, row, column] = token_id
            values[0, row, column] = logprob
    return ids, values


def _perf_metrics(metrics: RequestMetrics) -> dict[str, Array]:
    """Times are of the monotonic clock of the engine's machine. The engine drafts nothing, so those counts are 0."""
    return {
        "kv_cache_alloc_new_blocks": _integer(metrics.kv_blocks_new),
        "kv_cache_reused_blocks": _integer(metrics.kv_blocks_reused),
        "kv_cache_alloc_total_blocks": _integer(metrics.kv_blocks_total),
        "arrival_time_ns": _integer(metrics.arrival_ns, np.int64),
        "first_scheduled_time_ns": _integer(metrics.first_scheduled_ns, np.int64),
        "first_token_time_ns": _integer(metrics.first_token_ns, np.int64),
        "last_token_time_ns": _integer(metrics.last_token_ns, np.int64),
        "acceptance_rate": np.zeros((1, 1), dtype=np.float32),
        "total_accepted_draft_tokens": _integer(0),
        "total_draft_tokens": _integer(0),
    }


def _integer(value: int, dtype: Any = np.int32) -> Array:
    return np.array([[value]], dtype=dtype)


def _string(value: str) -> Array:
    return np.array([[value.encode()]], dtype=np.object_)

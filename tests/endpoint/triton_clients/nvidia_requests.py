"""The tensors that the client scripts of tensorrtllm_backend v0.19 send, name by name."""

from __future__ import annotations

from typing import Any

import numpy as np

PERF_OUTPUTS = (
    "kv_cache_alloc_new_blocks",
    "kv_cache_reused_blocks",
    "kv_cache_alloc_total_blocks",
    "arrival_time_ns",
    "first_scheduled_time_ns",
    "first_token_time_ns",
    "last_token_time_ns",
    "acceptance_rate",
    "total_accepted_draft_tokens",
    "total_draft_tokens",
)


def ids_request(prompt: list[int], tokens: int, *, streaming: bool, end_id: int = -1, **more: Any) -> dict[str, Any]:
    """inflight_batcher_llm_client.py: pad_id is that of GPT-2 unless a tokenizer is named."""
    return {
        "input_ids": prompt,
        "input_lengths": len(prompt),
        "request_output_len": tokens,
        "beam_width": 1,
        "temperature": 1.0,
        "streaming": streaming,
        "end_id": end_id,
        "pad_id": 50256,
        "runtime_top_k": 1,
        "runtime_top_p": 0.0,
        **more,
    }


def queue_request(prompt: list[int], tokens: int) -> dict[str, Any]:
    """test_max_queue_size.py, which sends all of this with each of many requests at once."""
    return ids_request(prompt, tokens, streaming=False, return_log_probs=False)


def text_request(prompt: str, tokens: int, *, streaming: bool, **more: Any) -> dict[str, Any]:
    """end_to_end_grpc_client.py."""
    return {
        "text_input": prompt,
        "max_tokens": tokens,
        "stream": streaming,
        "beam_width": 1,
        "temperature": 1.0,
        "exclude_input_in_output": False,
        **more,
    }


def words_request(prompt: str, tokens: int, names: tuple[str, str, str, str]) -> dict[str, Any]:
    """end_to_end_test.py, to `preprocessing` or to the models of text: prompt, length and empty word lists."""
    text, length, bad_words, stop_words = names
    none = np.array([[""]], dtype=object)
    return {text: prompt, length: tokens, bad_words: none, stop_words: none}


def core_request(prompt: Any, tokens: int) -> dict[str, Any]:
    """benchmark_core_model.py without a tokenizer."""
    lengths = np.array([[prompt.shape[1]]], np.int32)
    return {"input_ids": prompt, "input_lengths": lengths, "request_output_len": tokens, "pad_id": 0, "end_id": 1}

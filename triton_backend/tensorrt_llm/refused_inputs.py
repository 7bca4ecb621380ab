"""Inputs of tensorrtllm_backend that inflight does not support: refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from inflight.errors import RequestError
from inflight.triton_backend.wire.request_tensors import Array

# The values at which a scalar changes nothing. Absent and empty tensors always pass.
NEUTRAL_VALUES: Mapping[str, tuple[float, ...]] = {
    "beam_search_diversity_rate": (0,),
    "early_stopping": (0,),
    "len_penalty": (0, 1),
    "length_penalty": (0, 1),
    "runtime_top_p_decay": (0, 1),
    "runtime_top_p_min": (0, 1e-6),
    "runtime_top_p_reset_ids": (-1,),
    "draft_acceptance_threshold": (0,),
    "num_draft_tokens": (0,),
    "use_draft_logits": (0,),
    "prompt_vocab_size": (0,),
    "prompt_ignore_length": (0,),
    "return_context_logits": (0,),
    "return_generation_logits": (0,),
    "encoder_output_lengths": (0,),
    "skip_cross_attn_blocks": (0,),
    "lookahead_window_size": (0,),
    "lookahead_ngram_size": (0,),
    "lookahead_verification_set_size": (0,),
}

_FEATURES: Mapping[str, Sequence[str]] = {
    "drafting": ("draft_input_ids", "draft_logits"),
    "encoders": ("encoder_input_features", "cross_attention_mask"),
    "prompt tuning": (
        "prompt_embedding_table",
        "prompt_table_extra_ids",
        "prompt_table_extra_id",
        "PROMPT_TABLE_EXTRA_ID",
    ),
    "LoRA": ("lora_task_id", "lora_weights", "lora_config"),
    "multimodal input": (
        "mrope_rotary_cos_sin",
        "mrope_position_deltas",
        "image_input",
        "image_bytes_input",
        "image_url_input",
        "video_bytes_input",
        "IMAGE_BYTES",
        "IMAGE_URL",
        "VIDEO_BYTES",
        "IMAGES",
    ),
    "disaggregated serving": ("context_phase_params",),
    "KV cache retention": (
        "retention_token_range_starts",
        "retention_token_range_ends",
        "retention_token_range_priorities",
        "retention_token_range_durations_ms",
        "retention_decode_priority",
        "retention_decode_duration_ms",
    ),
    "an encoder-decoder's second prompt": (
        "decoder_text_input",
        "DECODER_QUERY",
    ),
}
# They say something where beam_width is above 1, and are checked where it is read.
_OF_BEAMS = ("len_penalty", "length_penalty")
# Of models that are not decoupled.
NO_STREAMING = "Streaming is only supported in decoupled mode."
ONE_SEQUENCE = "num_return_sequences is above 1; this model is not decoupled and has one answer for a prompt."

# Taken without effect. NVIDIA's clients pass on what `preprocessing` returns for the decoder of an encoder-decoder
# model, whatever the engine is, and a pad token, although the engine pads nothing.
IGNORED_INPUTS = ("decoder_input_ids", "decoder_input_lengths", "pad_id")
FEATURE_OF_INPUT: Mapping[str, str] = {name: feature for feature, names in _FEATURES.items() for name in names}


def refuse_unsupported(tensors: Mapping[str, Array]) -> None:
    """Raises RequestError naming the first input whose value asks for something unsupported."""
    has_beams = "beam_width" in tensors and bool((tensors["beam_width"] > 1).any())
    for name, tensor in tensors.items():
        if _is_empty(tensor) or (has_beams and name in _OF_BEAMS):
            continue
        if name in FEATURE_OF_INPUT:
            raise RequestError(f"{name} asks for {FEATURE_OF_INPUT[name]}, which this engine does not support.")
        neutral = NEUTRAL_VALUES.get(name)
        if neutral is not None and not np.isin(tensor, np.array(neutral, dtype=tensor.dtype)).all():
            is_flag = tensor.dtype == np.bool_
            allowed = " or ".join(str(bool(value)) if is_flag else f"{value:g}" for value in neutral)
            given = ", ".join(str(value) for value in tensor.reshape(-1)[:4])
            raise RequestError(f"{name} is {given}; this engine supports {allowed} only.")


def _is_empty(tensor: Array) -> bool:
    """Strings count as empty when they hold no characters: clients send "" for "none"."""
    return tensor.size == 0 or (tensor.dtype == object and not any(tensor.reshape(-1)))

"""Names of vLLM's SamplingParams, of its older versions and of TensorRT-LLM's and SGLang's, that are no parameters
here under that name."""

from __future__ import annotations

from inflight.migration import reasons as why
from inflight.migration.row import Row, honoured, noted, refused

_BEAMS = "beams are asked for by use_beam_search, n, best_of and length_penalty. There is one way to end a search."
_COMPUTED = "it is computed from the request."

SAMPLING: tuple[Row, ...] = (
    *honoured("guided_decoding=", "structured_outputs"),
    *honoured("max_new_tokens=", "max_tokens"),
    *honoured("min_new_tokens=", "min_tokens"),
    *honoured("random_seed|sampling_seed=", "seed"),
    *honoured("bad=", "bad_words"),
    *honoured("return_log_probs=", "logprobs"),
    *honoured("prompt_logprob_start=", "prompt_logprobs_start"),
    *refused(_BEAMS, "early_stopping= beam_width= beam_width_array= beam_search_diversity_rate="),
    *refused(
        "no code of others runs in the sampler. logit_bias, bad_words, allowed words (structured_outputs with choice) "
        "and the samplers of docs/offline.md are there.",
        "logits_processors= logits_processor= custom_params= extra_args= repetition_detection=",
    ),
    *refused(
        'tokens are allowed by what the text may be: structured_outputs={"choice": [...]}, a regex or a grammar.',
        "allowed_token_ids=",
    ),
    *refused(
        "log probabilities are those of the likeliest tokens: logprobs, prompt_logprobs.",
        "logprob_token_ids= prompt_logprob_token_ids= trace_decode_token_ids=",
    ),
    *refused(
        'prompts are never cut without a word. Give the last tokens: {"prompt_token_ids": ids[-k:]}.',
        "truncate_prompt_tokens=",
    ),
    *refused(
        "a budget of reasoning belongs to chats: LLM.chat(thinking_token_budget=...), or a request to a server.",
        "thinking_token_budget=",
    ),
    *refused(
        why.HIDDEN, "return_context_logits= return_generation_logits= return_encoder_output= additional_model_outputs="
    ),
    *refused(
        "the prompt stands beside the output: prompt and outputs[0].text.", "exclude_input_from_output=", fine=("true",)
    ),
    *noted("generate(..., stream=True) streams.", "stream= output_kind= stream_interval="),
    *noted(
        "text is decoded once, at the end.", "detokenize= spaces_between_special_tokens= output_text_buffer_length="
    ),
    *noted("a copy of SamplingParams costs microseconds.", "skip_clone="),
    *noted("log probabilities come as dicts.", "flat_logprobs="),
    *noted("prompt_logprobs computes what the prefix cache has, too.", "skip_reading_prefix_cache="),
    *noted(_COMPUTED, "end_id= pad_id= routed_experts_prompt_start="),
    *noted("top_p stays what it is through a request.", "top_p_min= top_p_reset_ids= top_p_decay="),
    *noted("one way to find the best completions.", "add_special_tokens= truncate_stop="),
)

# Of vLLM's StructuredOutputsParams, and of the GuidedDecodingParams before it.
STRUCTURED: tuple[Row, ...] = (
    *noted("structured output is by llguidance, whatever is chosen.", "backend= disable_fallback="),
    *refused("blanks are where JSON may have them, as the model writes them.", "disable_any_whitespace="),
    *refused("blanks are where JSON may have them. A regex or a grammar says it otherwise.", "whitespace_pattern="),
    *refused('say it in the schema: "additionalProperties": false.', "disable_additional_properties="),
)

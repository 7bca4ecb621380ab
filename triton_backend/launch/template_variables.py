"""The variables of the config.pbtxt templates, under the names that fill_template users know."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from inflight.errors import InflightError

Check = Callable[[str], bool]


def _is_int(minimum: int) -> Check:
    return lambda value: value.isdigit() and int(value) >= minimum


def _is_fraction(value: str) -> bool:
    try:
        return 0 < float(value) <= 1
    except ValueError:
        return False


def _is_ratio(value: str) -> bool:
    try:
        return 0 <= float(value) < inf
    except ValueError:
        return False


def _one_of(*values: str) -> Check:
    return lambda value: value.lower() in values


def _anything(value: str) -> bool:
    return bool(value)


_is_bool = _one_of("true", "false", "1", "0", "yes", "no")
_is_dtype = _one_of("type_fp32", "type_fp16", "type_bf16")


@dataclass(frozen=True, slots=True)
class Variable:
    """One template variable.

    `default` "" leaves an optional parameter unset. `check` accepts a value that is set; `expected` says in words what
    it accepts. `effective` is false for settings of GPU engines that other engines take without effect.
    """

    default: str
    check: Check = _anything
    expected: str = "text"
    effective: bool = True


def _count(default: str = "", minimum: int = 1) -> Variable:
    return Variable(default, _is_int(minimum), f"a whole number, at least {minimum}")


def _flag(default: str) -> Variable:
    return Variable(default, _is_bool, "true or false")


def _only(*values: str, default: str = "") -> Variable:
    """A setting of TensorRT-LLM of which inflight has one value; any other is refused, not ignored."""
    return Variable(
        default, _one_of(*values), " or ".join(value or "empty" for value in values) + ": inflight has no other"
    )


_UNUSED = Variable("", effective=False)
_DTYPE = "TYPE_FP32, TYPE_FP16 or TYPE_BF16"

VARIABLES: Mapping[str, Variable] = {
    "triton_backend": _only("python", "tensorrtllm", default="python"),
    "triton_max_batch_size": _count(),
    # It stands in config.pbtxt without quotes.
    "decoupled_mode": Variable("true", _one_of("true", "false"), "true or false"),
    "max_queue_delay_microseconds": _count("0", 0),
    "max_queue_size": _count("0", 0),
    "waiting_served_ratio": Variable("", _is_ratio, "a number, 0 or more"),
    "max_waiting_tokens": _count("", 0),
    "preprocessing_instance_count": _count("1"),
    "postprocessing_instance_count": _count("1"),
    "bls_instance_count": _count("1"),
    "engine_dir": Variable(""),
    "tokenizer_dir": Variable(""),
    "add_special_tokens": _flag("true"),
    "skip_special_tokens": _flag("true"),
    "accumulate_tokens": _flag("false"),
    "tensorrt_llm_model_name": _only("tensorrt_llm", default="tensorrt_llm"),
    "exclude_input_in_output": _flag("false"),
    "max_tokens_in_paged_kv_cache": _count(),
    "kv_cache_free_gpu_mem_fraction": Variable("", _is_fraction, "a number above 0 and at most 1"),
    "kv_cache_bytes": _count(),
    "kv_offload_dir": Variable(""),
    "kv_offload_bytes": _count(),
    "threads": _count(),
    "enable_kv_cache_reuse": _flag("true"),
    "batch_scheduler_policy": Variable(
        "guaranteed_no_evict",
        _one_of("guaranteed_no_evict", "max_utilization"),
        "guaranteed_no_evict or max_utilization",
    ),
    "cancellation_check_period_ms": _count("100"),
    # What tritonserver was told with --backend-config=python,thread-pool-size=N.
    "thread_pool_size": _count("32"),
    "stats_check_period_ms": _count("100"),
    "logits_datatype": Variable("TYPE_FP32", _is_dtype, _DTYPE),
    "encoder_input_features_data_type": Variable("TYPE_FP16", _is_dtype, _DTYPE),
    "prompt_embedding_table_data_type": Variable("TYPE_FP16", _is_dtype, _DTYPE),
    "batching_strategy": _only("inflight_fused_batching", "inflight_batching", default="inflight_fused_batching"),
    "max_beam_width": _count(),
    "num_nodes": _only("1"),
    "enable_chunked_context": _only("true", default="true"),
    "decoding_mode": _only("auto", "top_k", "top_p", "top_k_top_p", "beam_search"),
    # Whichever is named: grammars are compiled by llguidance.
    "guided_decoding_backend": Variable("", _one_of("", "xgrammar", "guidance", "llguidance"), "xgrammar", False),
    "sink_token_length": _only("0"),
    "kv_cache_host_memory_bytes": _only("0"),
    **dict.fromkeys(
        (
            "encoder_engine_dir",
            "max_attention_window_size",
            "lookahead_window_size",
            "lookahead_ngram_size",
            "lookahead_verification_set_size",
            "medusa_choices",
            "eagle_choices",
            "lora_prefetch_dir",
            "multimodal_model_path",
            "tensorrt_llm_draft_model_name",
            "multimodal_encoders_name",
        ),
        _only(""),
    ),
    **dict.fromkeys(
        (
            "cross_kv_cache_fraction",
            "kv_cache_onboard_blocks",
            "iter_stats_max_iterations",
            "request_stats_max_iterations",
            "normalize_log_probs",
            "gpu_device_ids",
            "participant_ids",
            "gpu_weights_percent",
            "lora_cache_optimal_adapter_size",
            "lora_cache_max_adapter_size",
            "lora_cache_gpu_memory_fraction",
            "lora_cache_host_memory_bytes",
            "multi_block_mode",
            "enable_context_fmha_fp32_acc",
            "cuda_graph_mode",
            "cuda_graph_cache_size",
            "speculative_decoding_fast_logits",
            "enable_trt_overlap",
            "max_num_images",
            "hf_model_path",
            # The tokenizer that the engine has says what structured output needs.
            "xgrammar_tokenizer_info_path",
        ),
        _UNUSED,
    ),
}


# Parameters of config.pbtxt whose variable has another name.
_VARIABLE_OF_PARAMETER: Mapping[str, str] = {
    "gpt_model_type": "batching_strategy",
    "gpt_model_path": "engine_dir",
    "encoder_model_path": "encoder_engine_dir",
    "tensorrt_llm_decoupled": "decoupled_mode",
}
# A repository may have been edited so that the model has another name, which no table knows.
_NAMES_A_MODEL = "tensorrt_llm_model_name"


@dataclass(frozen=True, slots=True)
class WrongParameter:
    """A parameter of a config.pbtxt with a value that is not `expected`."""

    key: str
    value: str
    expected: str


def wrong_parameters(parameters: Mapping[str, str]) -> list[WrongParameter]:
    """Those of the parameters of a model that have a value which VARIABLES does not allow. Empty ones are unset; others
    than those of the templates are left to who wrote them."""
    wrong = []
    for key, value in parameters.items():
        variable = VARIABLES.get(_VARIABLE_OF_PARAMETER.get(key, key))
        if variable is not None and value and key != _NAMES_A_MODEL and not variable.check(value):
            wrong.append(WrongParameter(key, value, variable.expected))
    return wrong


def parse_overrides(text: str) -> dict[str, str]:
    """Read "key:value,key:value" as fill_template does: a comma inside a value is written `\\,`.

    Raises InflightError for an entry without a colon and for an unknown key, naming the closest known one.
    """
    overrides: dict[str, str] = {}
    for entry in filter(None, re.split(r"(?<!\\),", text)):
        key, colon, value = entry.replace("\\,", ",").partition(":")
        if not colon:
            raise InflightError(f'"{entry}" is no key:value pair.', 'Write them as "key:value,key:value".')
        overrides[key.strip()] = value.strip()
    return overrides


def check_overrides(overrides: Mapping[str, str]) -> list[str]:
    """What to tell the user about accepted values. Raises InflightError when a key or a value is not accepted."""
    notes = []
    for key, value in overrides.items():
        if key not in VARIABLES:
            closest = difflib.get_close_matches(key, VARIABLES, n=1, cutoff=0.0)[0]
            raise InflightError(f'No template has a variable "{key}".', f'The closest is "{closest}".')
        variable = VARIABLES[key]
        if value and not variable.check(value):
            raise InflightError(f'"{key}:{value}" is not possible.', f"{key} takes {variable.expected}.")
        if value and not variable.effective:
            notes.append(f"{key} has no effect on this engine.")
    if overrides.get("triton_backend", "").lower() == "tensorrtllm":
        notes.append("triton_backend:tensorrtllm is written as python, the backend of inflight's tensorrt_llm model.")
    if overrides.get("postprocessing_instance_count", "1") != "1":
        notes.append(
            "With several postprocessing instances, chunks of one stream through `ensemble` may change places."
        )
    return notes

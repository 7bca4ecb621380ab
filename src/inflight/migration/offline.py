"""Names of vLLM's class LLM: the engine's arguments, where they mean another thing than for a server."""

from __future__ import annotations

from inflight.migration import reasons as why
from inflight.migration.row import Row, honoured, noted, refused
from inflight.migration.vllm import ENGINE

_OWN: tuple[Row, ...] = (
    *honoured("seed=", "seed", "of requests that have none of their own"),
    *honoured("skip_tokenizer_init=", "skip_tokenizer_init", "token ids in, token ids out"),
    *honoured("hf_token=", "hf_token"),
    *honoured("generation_config=", "generation_config", "auto, or vllm for defaults that are no model's"),
    *honoured("override_generation_config=", "override_generation_config"),
    *honoured("tokenizer=", "tokenizer", "the model's own; another one is refused"),
    *honoured("task|runner=", "task", "what a model does is in its files; another task is refused"),
    *refused("set the environment variable HF_HUB_CACHE before Python starts.", "download_dir="),
    *honoured("chat_template=", "chat_template", "a file, or the template itself"),
    *noted(
        "chat(...) takes them with each call.",
        "reasoning_parser= tool_call_parser=",
    ),
    *noted("preempted requests are computed again; kv_offload_bytes keeps their blocks in memory.", "swap_space="),
    *noted("answers have no model's name.", "served_model_name="),
    *noted("the environment is read when it is needed.", "fail_on_environ_validation="),
)
_NAMED = {name for row in _OWN for name in (each.lstrip("-").replace("_", "-") for each in row.names)}

OFFLINE: tuple[Row, ...] = (
    *_OWN,
    *(row for row in ENGINE if not {name.lstrip("-") for name in row.names} & _NAMED),
)

# Arguments of generate, chat, beam_search, encode, embed, classify and score.
CALLS: tuple[Row, ...] = (
    *refused(why.LORA, "lora_request= prompt_adapter_request="),
    *refused("give SamplingParams(structured_outputs=...).", "guided_options_request="),
    *refused(why.TRUNCATION, "tokenization_kwargs="),
    *refused(why.PLUGINS, "score_template="),
    *refused("encode, embed, classify and score take it.", "pooling_params="),
    *noted("models here take text alone.", "mm_processor_kwargs="),
    *noted("content in parts is joined for templates that take strings.", "chat_template_content_format="),
    *noted("sequences go on in batches of all prompts.", "concurrency_limit="),
)

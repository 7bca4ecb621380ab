"""The parameters of OpenAI's and vLLM's APIs that are refused, and what for."""

from __future__ import annotations

from inflight.triton_backend.openai.protocol.values import Refused

_BEAMS = "beam search in chats; /v1/completions has it"
_FUNCTIONS = "functions in the form before tools; give them as tools"
_COMPILERS = ("auto", "guidance", "llguidance", "xgrammar", "outlines", "lm-format-enforcer")
MEDIA = "images, audio or video"
_REMOTE = "prefill and decoding on different servers"

REFUSED: dict[str, Refused] = {
    "early_stopping": Refused("beam search that ends early"),
    # Whoever compiles the grammar, the text conforms.
    "guided_decoding_backend": Refused("this compiler of grammars", _COMPILERS),
    "guided_whitespace_pattern": Refused("a pattern for the blanks of JSON"),
    "allowed_token_ids": Refused("a list of the tokens that are allowed; logit_bias forbids tokens"),
    "logprob_token_ids": Refused("log probabilities of tokens of the client's choice"),
    "logits_processors": Refused("logits processors of the client"),
    "watermarking": Refused("watermarks by this name; watermark_delta and watermark_gamma ask for one"),
    "repetition_detection": Refused("ending an answer that repeats itself"),
    "spaces_between_special_tokens": Refused("special tokens without spaces between them", (True,), even_empty=True),
    "return_tokens_as_token_ids": Refused("tokens spelled as their ids; return_token_ids gives the ids"),
    "return_token_offsets": Refused("the place of each token in the prompt"),
    "return_mm_kwargs": Refused(MEDIA, (True,)),
    "routed_experts_prompt_start": Refused("mixtures of experts"),
    "stream_interval": Refused("chunks of several tokens", (1,)),
    "kv_transfer_params": Refused(_REMOTE),
    "ec_transfer_params": Refused(_REMOTE),
    "vllm_xargs": Refused("extensions of vLLM"),
}

REFUSED_IN_CHAT: dict[str, Refused] = {
    "use_beam_search": Refused(_BEAMS),
    "length_penalty": Refused(_BEAMS, (1.0, 1)),
    "functions": Refused(_FUNCTIONS),
    "function_call": Refused(_FUNCTIONS, ("none", "auto")),
    "audio": Refused("audio"),
    "media_io_kwargs": Refused(MEDIA),
    "mm_processor_kwargs": Refused(MEDIA),
    "prediction": Refused("predicted outputs"),
    "moderation": Refused("moderation"),
    # An empty object asks for a search with the usual options.
    "web_search_options": Refused("web search", even_empty=True),
    "prompt_cache_options": Refused("explicit points of the prefix cache", ({"mode": "implicit"},)),
    "chat_template": Refused("a chat template of the client; the model's own is used"),
    "echo": Refused("repeating a message; continue_final_message goes on with one"),
    "return_prompt_text": Refused("the text of the prompt in the answer; return_token_ids gives its ids"),
}

REFUSED_IN_COMPLETIONS: dict[str, Refused] = {
    "thinking_token_budget": Refused("a limit on the reasoning of a completion; chat completions have one", (-1,)),
    "suffix": Refused("text that follows the completion"),
    "prompt_embeds": Refused("prompts of embeddings"),
}

REFUSED_IN_MESSAGES: dict[str, Refused] = {
    "function_call": Refused("calls in the form before tools; give them as tool_calls"),
    "audio": Refused("audio"),
}

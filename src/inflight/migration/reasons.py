"""Why a foreign name is noted or refused: sentences that many rows share."""

from __future__ import annotations

# Noted: it changes nothing.
AHEAD = "engines are compiled ahead of time, so that nothing is captured, tuned or compiled while serving."
KERNELS = "the kernels are chosen when the engine is built, for the machine that it is built for."
HOST_MEMORY = "weights are mapped from the engine's files, in the memory of this machine."
LOGGING = "it is about what another server logs."
METRICS = "Prometheus metrics are always there, at /metrics."
ALWAYS = "it is always so."
OWN_FILES = "the model's own files say it."
ONE_PROCESS = "one process runs the engine, on threads: --threads."
SCHEDULING = "the scheduler admits what fits into each step (in-flight batching with chunked prefill)."
ADDRESSES = "it is about connections between processes of another server."
NO_CODE = "no Python code of a model is ever run; a model that needs some is refused by name."
TEXT_LOADING = "weights stream through, one tensor at a time."
STRUCTURE = "structured output is always on, by llguidance (docs/formats/structured_output.md)."
MEASURED = "it is about measuring and tracing another server."
HYBRID = "there is one kind of KV cache in an engine, planned when it is built."
STEP_STREAM = "every token is sent in the step that computed it."

# Refused: why, and what to do.
RANKS = (
    "engines of one rank are run, on all cores of one machine. Leave it out; several servers behind a balancer "
    "serve more users."
)
LORA = (
    "LoRA adapters are not applied. Merge the adapter into the model once (peft: merge_and_unload, then "
    "save_pretrained) and serve that."
)
SPECULATION = "there is no speculative decoding. Leave it out: the tokens are the same without."
IMAGES = "models here take text alone. Leave it out."
AUTHENTICATION = (
    "the server has no authentication and no TLS. Put a proxy in front (nginx, Caddy), and keep --host 127.0.0.1."
)
TEMPLATE = "the chat template is the model's own, or that of --chat-template FILE."
PLUGINS = "no code of others is loaded into the server. Leave it out."
CONFIG_FILES = "the model is read as its config.json says. Change that file in a copy of the model, and build again."
OTHER_TOKENIZER = (
    "the engine has the tokenizer that the model came with. Put the other one's files into a copy of the model's "
    "directory and build again."
)
TRANSFER = "KV cache blocks are not sent between servers. Leave it out; --kv-offload-dir keeps them in files."
HIDDEN = "hidden states, experts and other inner values are not returned."
SLEEPING = "weights cannot be released while a server runs. Stop it, and start it again: an engine opens in a second."
OTHER_MODELS = "one server has one engine. Start one for each model, on ports of their own."
PATHS = "the API is at the root of its port. Let the proxy in front rewrite the path."
LOADERS = (
    "weights are read from safetensors and GGUF files, as they are, in directories and on the hub. Convert the model "
    "to safetensors first (save_pretrained)."
)
TRUNCATION = "prompts are never cut without a word: what is too long is refused, with both lengths."
BEAMS = (
    "beam search is asked for by a request: LLM.beam_search, use_beam_search of /v1/completions, beam_width of "
    "Triton's models."
)
CONTEXT = "the lengths that rotary embeddings reach are the model's own. " + CONFIG_FILES
CALIBRATED_CACHE = "scales of an int8 KV cache are those of each token, and factors of fp8 those of the checkpoint."
BY_HAND = "the model's numbers are read from its config.json. Leave it out."
OTHER_FORMAT = "models are read in the format of Hugging Face, or as GGUF. Convert it with the format's own tool first."
TPU = "it is about other hardware."

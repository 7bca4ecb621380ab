"""Programs over a language model, in the shape that SGLang's users know: `import inflight.lang as sgl`."""

from __future__ import annotations

from inflight.lang.backends.endpoint import RuntimeEndpoint
from inflight.lang.backends.openai import OpenAI
from inflight.lang.backends.runtime import Runtime
from inflight.lang.choices import (
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from inflight.lang.engine import Engine
from inflight.lang.expressions import (
    assistant,
    assistant_begin,
    assistant_end,
    gen,
    gen_int,
    gen_string,
    image,
    select,
    separate_reasoning,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
    video,
)
from inflight.lang.function import function, set_default_backend
from inflight.lang.state import ProgramState

__all__ = [
    "Engine",
    "OpenAI",
    "ProgramState",
    "Runtime",
    "RuntimeEndpoint",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "greedy_token_selection",
    "image",
    "select",
    "separate_reasoning",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
]

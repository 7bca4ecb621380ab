"""Which families of models mark their reasoning, how, and which a model is of."""

from __future__ import annotations

from collections.abc import Mapping

from inflight.errors import InflightError
from inflight.runtime.text.parsers.reasoning.harmony import HARMONY
from inflight.runtime.text.parsers.reasoning.parser import Beginning, ReasoningFamily
from inflight.runtime.text.parsers.reasoning.spans import Span

OFF = "none"
_THINK = Span(("<think>",), ("</think>",))

# In the order in which a chat template is asked for their signs: the more telling ones first.
FAMILIES: Mapping[str, ReasoningFamily] = {
    "gpt_oss": HARMONY,
    "gemma4": Span(("<|channel>",), ("<channel|>",), label="thought\n").family(),
    "mistral": Span(("[THINK]",), ("[/THINK]",)).family(),
    "seed_oss": Span(("<seed:think>",), ("</seed:think>",)).family(),
    "cohere": Span(
        ("<|START_THINKING|>",), ("<|END_THINKING|>",), answer=("<|START_RESPONSE|>", "<|END_RESPONSE|>")
    ).family(),
    "apertus": Span(("<|inner_prefix|>",), ("<|inner_suffix|>",)).family(),
    "kimi": Span(("◁think▷",), ("◁/think▷",)).family(),
    "exaone": Span(("<thought>",), ("</thought>",)).family(),
    "granite": Span(
        ("Here is my thought process:", "Here's my thought process:"), ("Here is my response:", "Here's my response:")
    ).family(),
    "granite3_3": Span(_THINK.openings, _THINK.closings, answer=("<response>", "</response>")).family(),
    "hunyuan": Span(_THINK.openings, _THINK.closings, answer=("<answer>", "</answer>")).family(),
    "think": _THINK.family(),
}

# The names that vLLM and SGLang have for the same.
_THINKERS = (
    *("deepseek_r1", "deepseek_v3", "deepseek_v31", "deepseek_v4", "ernie45", "exaone4", "glm4_moe", "glm45", "glm47"),
    *("holo2", "hy_v3", "kimi_k2", "mimo", "minimax", "minimax_m2", "nemotron_v3", "nemotron_3", "nano_v3", "olmo3"),
    *("qwen3", "qwen3_thinking", "smollm3", "solar_open2", "step3", "step3p5", "interns1"),
)
ALIASES: Mapping[str, str] = {
    **dict.fromkeys(_THINKERS, "think"),
    "openai_gptoss": "gpt_oss",
    "hunyuan_a13b": "hunyuan",
    "cohere_command3": "cohere",
    "cohere_command4": "cohere",
    "magistral": "mistral",
    "off": OFF,
}


def reasoning_family(name: str | None, template: str | None) -> ReasoningFamily | None:
    """The family of that name, spelled with dashes or underscores; None: the one whose markers `template`, the source
    of the model's chat template, names. None for a model that does not mark any reasoning, or for the name "none".

    Raises InflightError for a name that is not known.
    """
    if name is None:
        source = template or ""
        return next((each for each in FAMILIES.values() if all(sign in source for sign in each.signs)), None)
    spelled = name.lower().replace("-", "_")
    spelled = ALIASES.get(spelled, spelled)
    if spelled != OFF and spelled not in FAMILIES:
        raise InflightError(
            f"There is no reasoning parser {name}.",
            f"Choose {', '.join(FAMILIES)}, or {OFF} for none; vLLM's names of them are known, too.",
        )
    return FAMILIES.get(spelled)


def beginning_of(family: ReasoningFamily, prompt: str, begun: str | None = None) -> Beginning:
    """What the answer to `prompt`, or to what ends with it, begins with. `begun`: the beginning of the answer, where
    the prompt has one that is to be continued."""
    beginning = family.beginning(prompt)
    if beginning is not Beginning.OPEN or not begun or not begun.strip():
        return beginning
    is_open = bool(family.opening) and begun.rfind(family.opening) > begun.rfind(family.closing)
    return Beginning.REASONING if is_open else Beginning.CONTENT

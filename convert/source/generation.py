"""End tokens and sampling defaults: generation_config.json first, config.json where it is silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inflight.convert.checkpoint.config import InflightFacts, SourceFacts
from inflight.convert.quantization.facts import QuantizationRecord
from inflight.errors import ModelError

# Key -> whether a sampler can follow the value. NaN fails every comparison.
_SAMPLING_KEYS: dict[str, Callable[[float], bool]] = {
    "temperature": lambda value: 0 <= value <= 1e38,
    "top_k": lambda value: -1 <= value < 1 << 31,
    "top_p": lambda value: 0 < value <= 1,
    "min_p": lambda value: 0 <= value <= 1,
    "repetition_penalty": lambda value: 0 < value <= 1e38,
}
# The one default that also bends greedy decoding.
_GREEDY_KEYS = ("repetition_penalty",)


def generation_facts(
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    source: SourceFacts,
    layers: InflightFacts,
    quantization: QuantizationRecord | None = None,
) -> InflightFacts:
    """The "inflight" block, `layers` being what it says of those. An end token may be one id or a list; sampling
    defaults count only with do_sample.

    Raises ModelError naming a default that no request could be served with.
    """

    def value(key: str) -> Any:
        found = generation_config.get(key)
        return config.get(key) if found is None else found

    keys = _SAMPLING_KEYS if generation_config.get("do_sample") else _GREEDY_KEYS
    defaults = {key: generation_config[key] for key in keys if _is_number(generation_config.get(key))}
    if wrong := [f"{key} {value}" for key, value in defaults.items() if not _SAMPLING_KEYS[key](value)]:
        raise ModelError(
            f"{source.model}: generation_config.json has sampling defaults out of range: {', '.join(wrong)}.",
            "Correct them there, or remove them.",
        )
    pads = _token_ids(value("pad_token_id"))
    starts = _token_ids(value("bos_token_id"))
    return InflightFacts(
        source=source,
        end_token_ids=_token_ids(value("eos_token_id")),
        pad_token_id=pads[0] if pads else None,
        bos_token_id=starts[0] if starts else None,
        sampling_defaults=defaults,
        sliding_window=layers.sliding_window,
        layer_types=layers.layer_types,
        layers_without_rope=layers.layers_without_rope,
        local_rotary_scaling=layers.local_rotary_scaling,
        quantization=quantization,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _token_ids(value: Any) -> tuple[int, ...]:
    """One id or a list of them, without repeats. Ids below zero are a way of saying that there is none."""
    ids = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0))

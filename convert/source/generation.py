"""End tokens and sampling defaults: generation_config.json first, config.json where it is silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.config import InflightFacts, SourceFacts
from inflight.errors import ModelError
from inflight.sampling_parameters import SAMPLING_PARAMETERS, SamplingParameter


def generation_facts(
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    source: SourceFacts,
    layers: InflightFacts,
    tokenizer_end: int | None = None,
) -> InflightFacts:
    """The "inflight" block, `layers` being what it says of those. Sampling defaults count only with do_sample.

    End tokens are those of generation_config.json, then of config.json, each one id or a list, and `tokenizer_end`, the
    tokenizer's own: a model fine-tuned for chat may end its answers with a token that only one of the three names.

    Raises ModelError naming a default that no request could be served with.
    """

    def value(key: str) -> Any:
        found = generation_config.get(key)
        return config.get(key) if found is None else found

    samples = bool(generation_config.get("do_sample"))
    rows = [row for row in SAMPLING_PARAMETERS if row.model_default == "always" or (samples and row.model_default)]
    given = [(row, generation_config[row.name]) for row in rows if _is_number(generation_config.get(row.name))]
    if wrong := [f"{row.name} {number}" for row, number in given if _is_out_of_range(row, number)]:
        raise ModelError(
            f"{source.model}: generation_config.json has sampling defaults out of range: {', '.join(wrong)}.",
            "Correct them there, or remove them.",
        )
    ends = (generation_config.get("eos_token_id"), config.get("eos_token_id"), tokenizer_end)
    pads = _token_ids(value("pad_token_id"))
    starts = _token_ids(value("bos_token_id"))
    return layers.model_copy(
        update={
            "source": source,
            "end_token_ids": tuple(dict.fromkeys(i for end in ends for i in _token_ids(end))),
            "pad_token_id": pads[0] if pads else None,
            "bos_token_id": starts[0] if starts else None,
            "sampling_defaults": {row.name: _default(row, number) for row, number in given},
        }
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_out_of_range(row: SamplingParameter, number: float) -> bool:
    is_fraction = isinstance(number, float) and not number.is_integer()
    return (row.kind == "integer" and is_fraction) or row.out_of_range(number) is not None


def _default(row: SamplingParameter, number: float) -> float | int:
    """JSON may write the integer 50 as 50.0."""
    return min(int(number), row.greatest) if row.kind == "integer" else number


def _token_ids(value: Any) -> tuple[int, ...]:
    """One id or a list of them, without repeats. Ids below zero mean that there is none."""
    ids = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0))

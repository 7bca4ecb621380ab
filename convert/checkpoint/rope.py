"""Scaling of the rotary position embedding, as Hugging Face configs and checkpoints spell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from inflight.records import Record

SUPPORTED_ROPE_TYPES = ("default", "linear", "llama3")
# Facts that Hugging Face keeps beside the scaling in the same dictionary.
_NOT_SCALING = ("rope_theta", "rope_type", "type", "partial_rotary_factor")


class RotaryScaling(Record):
    """How the inverse frequencies are stretched.

    linear: all divided by `factor`. llama3: those whose wavelength exceeds original_max_position_embeddings /
    low_freq_factor are divided by `factor`, those below original_max_position_embeddings / high_freq_factor are kept,
    and those between are interpolated (Llama 3.1).
    """

    rope_type: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> RotaryScaling:
        for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, not {value}")
        bounds = (self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings)
        if self.rope_type == "llama3":
            if None in bounds:
                raise ValueError("llama3 needs low_freq_factor, high_freq_factor and original_max_position_embeddings")
            if self.low_freq_factor == self.high_freq_factor:
                raise ValueError("low_freq_factor and high_freq_factor must differ")
        elif any(bound is not None for bound in bounds):
            raise ValueError("linear takes no other key than factor")
        return self

    def to_checkpoint(self) -> dict[str, Any]:
        """The dictionary of config.json; the type is written under its new and its old key, as readers differ."""
        return {"type": self.rope_type, **self.model_dump(exclude_none=True)}


def parse_rotary_scaling(raw: Mapping[str, Any] | None, max_position_embeddings: int | None) -> RotaryScaling | None:
    """The scaling in `raw`, a `rope_scaling` or `rope_parameters` dictionary; None when frequencies are unscaled.

    As in transformers, llama3's original_max_position_embeddings defaults to `max_position_embeddings`.
    Raises ValueError saying what is unsupported.
    """
    if not raw:
        return None
    rope_type = raw.get("rope_type", raw.get("type", "default"))
    if rope_type not in SUPPORTED_ROPE_TYPES:
        raise ValueError(f"rope type {rope_type!r} is not supported (supported: {', '.join(SUPPORTED_ROPE_TYPES)})")
    if rope_type == "default":
        return None
    values = {key: value for key, value in raw.items() if key not in _NOT_SCALING}
    if rope_type == "llama3":
        values.setdefault("original_max_position_embeddings", max_position_embeddings)
    try:
        return RotaryScaling(rope_type=rope_type, **values)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or rope_type}: {e['msg']}" for e in error.errors())
        raise ValueError(f"rope scaling {dict(raw)}: {details}") from error

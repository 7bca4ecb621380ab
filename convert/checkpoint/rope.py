"""Scaling of the rotary position embedding, as Hugging Face configs and checkpoints spell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from inflight.records import Record

RopeType = Literal["linear", "dynamic", "llama3", "yarn", "longrope"]
# Type -> keys that it needs beside factor, keys that it may have.
_KEYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": ((), ()),
    "dynamic": ((), ()),
    "llama3": (("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("original_max_position_embeddings",),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": (("original_max_position_embeddings", "short_factor", "long_factor"), ("attention_factor",)),
}
SUPPORTED_ROPE_TYPES = ("default", *_KEYS)
# Types whose original_max_position_embeddings is the model's where the config names none; of the last two, the factor
# is the quotient of both.
_FROM_POSITIONS = ("llama3", "yarn", "longrope")
_QUOTIENT = ("yarn", "longrope")
# Facts that Hugging Face keeps beside the scaling in the same dictionary.
_NOT_SCALING = ("rope_theta", "rope_type", "type", "partial_rotary_factor")


class QueryScale(Record):
    """What multiplies queries by their positions (QueryScaleSpec); `unrotated`: in layers without rotary embedding."""

    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    length: Annotated[int, Field(ge=1)]
    first: int = 0
    unrotated: bool = False


class RotaryScaling(Record):
    """How the inverse frequencies are stretched.

    linear: all divided by `factor`. llama3: those whose wavelength exceeds original_max_position_embeddings /
    low_freq_factor are divided by `factor`, those below original_max_position_embeddings / high_freq_factor are kept,
    and those between are interpolated (Llama 3.1). yarn (Peng et al., 2023): likewise, between the elements that turn
    beta_fast and beta_slow times within original_max_position_embeddings, and cosines and sines are multiplied by an
    attention factor. longrope (Ding et al., 2024): every frequency is divided by its own short_factor, in sequences
    longer than original_max_position_embeddings by its long_factor, with an attention factor as well. dynamic: none in
    sequences up to max_position_embeddings, a larger base in longer ones.
    """

    rope_type: RopeType
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check_fields(self) -> RotaryScaling:
        given = {name: value for name, value in self if name != "rope_type" and value is not None}
        for name, value in given.items():
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, bool) and not 0 < number < math.inf:
                    raise ValueError(f"{name} must be positive, not {number}")
        needed, optional = _KEYS[self.rope_type]
        if any(name not in given for name in needed):
            raise ValueError(f"{self.rope_type} needs {_listed(needed)}")
        if given.keys() - {"factor", *needed, *optional}:
            raise ValueError(f"{self.rope_type} takes no other key than {_listed(('factor', *needed, *optional))}")
        if self.rope_type == "llama3" and self.low_freq_factor == self.high_freq_factor:
            raise ValueError("low_freq_factor and high_freq_factor must differ")
        if self.rope_type == "longrope" and self.original_max_position_embeddings == 1:
            raise ValueError("original_max_position_embeddings must be above 1")
        return self

    @property
    def longest_sequence(self) -> int | None:
        """The longest sequence that these frequencies are right for: longrope has others for a longer one."""
        return self.original_max_position_embeddings if self.rope_type == "longrope" else None

    @property
    def table_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        original = self.original_max_position_embeddings
        if self.rope_type == "longrope" and original is not None and self.factor > 1:
            return math.sqrt(1 + math.log(self.factor) / math.log(original))
        if self.rope_type != "yarn":
            return 1.0
        if self.mscale is None or self.mscale_all_dim is None:
            return _yarn_scale(self.factor, 1.0)
        return _yarn_scale(self.factor, self.mscale) / _yarn_scale(self.factor, self.mscale_all_dim)

    @property
    def score_factor(self) -> float:
        """What DeepSeek multiplies all scores by, beside the table_factor of the part that turns."""
        if self.rope_type != "yarn" or self.mscale_all_dim is None:
            return 1.0
        return _yarn_scale(self.factor, self.mscale_all_dim) ** 2

    def to_checkpoint(self) -> dict[str, Any]:
        """The dictionary of config.json; the type is written under its new and its old key, as readers differ."""
        return {"type": self.rope_type, **self.model_dump(mode="json", exclude_none=True)}


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _yarn_scale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def parse_rotary_scaling(raw: Mapping[str, Any] | None, max_position_embeddings: int | None) -> RotaryScaling | None:
    """The scaling in `raw`, a `rope_scaling` or `rope_parameters` dictionary; None when frequencies are unscaled.

    As in transformers, original_max_position_embeddings defaults to `max_position_embeddings`, and the factor of yarn
    and longrope to the quotient of both. Raises ValueError saying what is unsupported.
    """
    if not raw:
        return None
    rope_type = raw.get("rope_type", raw.get("type", "default"))
    if rope_type not in SUPPORTED_ROPE_TYPES:
        raise ValueError(f"rope type {rope_type!r} is not supported (supported: {', '.join(SUPPORTED_ROPE_TYPES)})")
    if rope_type == "default":
        return None
    values = {key: value for key, value in raw.items() if key not in _NOT_SCALING and value is not None}
    if rope_type in _FROM_POSITIONS:
        values.setdefault("original_max_position_embeddings", max_position_embeddings)
    original, positions = values.get("original_max_position_embeddings"), max_position_embeddings
    if rope_type in _QUOTIENT and isinstance(original, int) and isinstance(positions, int) and original > 0:
        values.setdefault("factor", positions / original)
    try:
        return RotaryScaling(rope_type=rope_type, **values)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or rope_type}: {e['msg']}" for e in error.errors())
        raise ValueError(f"rope scaling {dict(raw)}: {details}") from error

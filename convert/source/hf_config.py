"""Reading the config.json of a Hugging Face model, as transformers would, without transformers.

Every value that is missing, of the wrong type or unsupported is noted and reading goes on, so that one message can
list them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inflight.convert.checkpoint.config import MAX_LAYERS, MAX_SIZE
from inflight.convert.checkpoint.layout import Traits
from inflight.convert.checkpoint.rope import RotaryScaling, parse_rotary_scaling
from inflight.convert.families.table import Family
from inflight.dtypes import FLOAT_DTYPES


@dataclass(frozen=True, slots=True)
class HfModelFacts:
    """What config.json says of a decoder. `dtype` None: it names none. `tied`: the embedding is the projection too."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    max_position_embeddings: int
    norm_epsilon: float
    rotary_base: float
    rotary_scaling: RotaryScaling | None
    sliding_window: int | None
    dtype: str | None
    tied: bool
    traits: Traits


@dataclass(frozen=True, slots=True)
class ConfigReading:
    """The facts, and every problem met on the way. The facts hold only if there is none; `shapes_known` says whether
    the sizes among them can be trusted all the same.
    """

    facts: HfModelFacts
    problems: tuple[str, ...]
    shapes_known: bool


class _Values:
    """Typed access to the raw values; a problem yields a harmless value and a line in `problems`."""

    def __init__(self, raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.raw = {**defaults, **raw}
        self.problems: list[str] = []
        self.shapes_known = True

    def count(self, key: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """A positive integer up to `most`; null and absent mean `default`."""
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most:
            return value
        self.shapes_known = False
        if value is None:
            self.problems.append(f"config.json has no {key}")
        else:
            limit = f" up to {most}" if isinstance(value, int) and value > most else ""
            self.problems.append(f"{key} must be a positive integer{limit}, not {value!r}")
        return 1

    def number(self, key: str, default: float) -> float:
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
        self.problems.append(f"{key} must be a positive number, not {value!r}")
        return default

    def flag(self, key: str | bool) -> bool:
        """The boolean under `key`, absent meaning false; a boolean stands for itself."""
        if isinstance(key, bool):
            return key
        value = self.raw.get(key)
        if value not in (None, True, False):
            self.problems.append(f"{key} must be true or false, not {value!r}")
        return bool(value)


def read_model_facts(raw: Mapping[str, Any], family: Family) -> ConfigReading:
    """The facts in a config, and everything about it that is missing, malformed or unsupported."""
    values = _Values(raw, family.defaults)
    heads, hidden = values.count("num_attention_heads"), values.count("hidden_size")
    max_positions = values.count("max_position_embeddings")
    rotary_base, rotary_scaling = _read_rope(values, max_positions)
    num_layers = values.count("num_hidden_layers", most=MAX_LAYERS)
    facts = HfModelFacts(
        vocab_size=values.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=values.count("intermediate_size"),
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=values.count("num_key_value_heads", heads),
        head_size=values.count("head_dim", max(hidden // heads, 1)),
        max_position_embeddings=max_positions,
        norm_epsilon=values.number("rms_norm_eps", 1e-6),
        rotary_base=rotary_base,
        rotary_scaling=rotary_scaling,
        sliding_window=_read_sliding_window(values, family, num_layers),
        dtype=_read_dtype(values),
        tied=values.flag("tie_word_embeddings"),
        traits=Traits(
            qkv_bias=values.flag(family.qkv_bias),
            dense_bias=values.flag(family.dense_bias),
            mlp_bias=values.flag(family.mlp_bias),
            qk_norm=family.qk_norm,
        ),
    )
    _check_unsupported(values)
    return ConfigReading(facts, tuple(values.problems), values.shapes_known)


def _check_unsupported(values: _Values) -> None:
    if (activation := values.raw.get("hidden_act", "silu")) != "silu":
        values.problems.append(f"hidden_act {activation!r} is not supported (supported: silu)")
    for key in ("quantization_config", "compression_config"):
        if quantization := values.raw.get(key):
            method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
            values.shapes_known = False
            values.problems.append(
                f"{key}: the weights are already quantized ({method}); give the model they were quantized from"
            )


def _read_rope(values: _Values, max_positions: int) -> tuple[float, RotaryScaling | None]:
    """transformers 5 keeps all of it in rope_parameters; before, rope_theta and rope_scaling were separate keys."""
    rope = values.raw.get("rope_scaling") or values.raw.get("rope_parameters") or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        values.problems.append("rope parameters that differ from layer to layer are not supported")
        return 1.0, None
    rope = {**{key: values.raw[key] for key in ("rope_theta", "partial_rotary_factor") if key in values.raw}, **rope}
    original = values.raw.get("original_max_position_embeddings")
    if original is not None and rope.get("rope_type", rope.get("type")) == "llama3":
        rope["original_max_position_embeddings"] = original
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        values.problems.append(f"partial_rotary_factor {rope['partial_rotary_factor']} is not supported")
    base = _Values(rope, {})
    theta = base.number("rope_theta", 10000.0)
    values.problems.extend(base.problems)
    try:
        return theta, parse_rotary_scaling(rope, max_positions)
    except ValueError as error:
        values.problems.append(str(error))
        return theta, None


def _read_sliding_window(values: _Values, family: Family, num_layers: int) -> int | None:
    """The window that all layers share. A mixture of sliding and full layers has no place in the checkpoint format."""
    if family.sliding_window == "never" or values.raw.get("sliding_window") is None:
        return None
    switched = family.sliding_window == "switched"
    if switched and not values.flag("use_sliding_window"):
        return None
    window = values.count("sliding_window")
    layers = values.raw.get("layer_types")
    if not isinstance(layers, list):
        first = values.raw.get("max_window_layers") if switched else 0
        if not isinstance(first, int):
            values.problems.append(f"max_window_layers must be an integer, not {first!r}")
            return None
        layers = ["sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)]
    kinds = set(map(str, layers))
    if kinds == {"full_attention"}:
        return None
    if kinds != {"sliding_attention"}:
        values.problems.append(f"layers of different kinds are not supported: {', '.join(sorted(kinds))}")
    return window


def _read_dtype(values: _Values) -> str | None:
    dtype = values.raw.get("dtype") or values.raw.get("torch_dtype")
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in FLOAT_DTYPES:
        values.problems.append(f"dtype {name!r} is not supported (supported: {', '.join(FLOAT_DTYPES)})")
    return name

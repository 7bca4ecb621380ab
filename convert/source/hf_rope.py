"""The rotary embedding of a Hugging Face config, in the spellings of transformers 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inflight.convert.checkpoint.rope import RotaryScaling, parse_rotary_scaling
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family
from inflight.convert.source.hf_layers import FULL, SLIDING

# Rope types for which a value beside the parameters replaces the one among them.
_WITH_ORIGINAL = ("llama3", "yarn", "longrope")


@dataclass(frozen=True, slots=True)
class Rope:
    """Base and scaling of the frequencies. `local_base` and `local_scaling` are those of sliding layers, where the
    family has others for them. `share` is the part of each head that turns.
    """

    base: float = 1.0
    scaling: RotaryScaling | None = None
    local_base: float | None = None
    local_scaling: RotaryScaling | None = None
    share: float = 1.0


def read_rope(values: ConfigValues, family: Family, max_positions: int) -> Rope:
    """transformers 5 keeps all of it in rope_parameters; before, rope_theta and rope_scaling were separate keys."""
    given = values.raw.get("rope_scaling") or values.raw.get("rope_parameters") or {}
    if family.rope_by_layer_type:
        return _read_by_layer_type(values, family, max_positions)
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        values.problems.append("rope parameters that differ from layer to layer are not supported")
        return Rope()
    rope = {**{key: values.raw[key] for key in ("rope_theta", "partial_rotary_factor") if key in values.raw}, **given}
    original = values.raw.get("original_max_position_embeddings")
    if original is not None and rope.get("rope_type", rope.get("type")) in _WITH_ORIGINAL:
        rope["original_max_position_embeddings"] = original
    share = _read_share(values, rope, family)
    rope = _with_scale(values, rope)
    return Rope(*_read_parameters(values, rope, 10000.0, max_positions), share=share)


def _with_scale(values: ConfigValues, rope: dict[str, Any]) -> dict[str, Any]:
    """Phi-3.5-MoE names the factor of cosines and sines for short sequences and for long ones."""
    short, long = rope.get("short_mscale"), rope.get("long_mscale")
    if short is None or rope.get("rope_type", rope.get("type")) != "longrope":
        return rope
    if long != short:
        values.problems.append(f"long_mscale {long!r} other than short_mscale {short!r} is not supported")
    others = {key: value for key, value in rope.items() if key not in ("short_mscale", "long_mscale")}
    return {**others, "attention_factor": short}


def _read_by_layer_type(values: ConfigValues, family: Family, max_positions: int) -> Rope:
    """Parameters of full layers are under that key, or beside it in the old spelling; likewise of sliding ones."""
    nested = values.raw.get("rope_parameters") or {}
    old = values.raw.get("rope_scaling") or {}
    if not isinstance(nested, dict) or not isinstance(old, dict):
        values.problems.append("rope_parameters must hold parameters for each type of layers, and rope_scaling one set")
        return Rope()
    if unknown := nested.keys() - {FULL, SLIDING}:
        values.problems.append(
            f"rope_parameters has {', '.join(sorted(map(str, unknown)))} beside {FULL} and {SLIDING}"
        )
    parameters = {}
    for kind, key in ((FULL, "rope_theta"), (SLIDING, "rope_local_base_freq")):
        found = nested.get(kind) or {}
        if not isinstance(found, dict):
            values.problems.append(f"rope_parameters of {kind} must be an object, not {found!r}")
            found = {}
        beside = {name: values.raw[name] for name in ("partial_rotary_factor",) if name in values.raw}
        parameters[kind] = {"rope_theta": values.raw.get(key), **beside, **found, **(old if kind == FULL else {})}
        _read_share(values, parameters[kind], family)
        # Of parameters by layer type, transformers reads this one elsewhere and so never finds it.
        if parameters[kind].get("truncate") is False:
            values.problems.append(f"truncate in the rope parameters of {kind} is not applied by transformers")
    full = _read_parameters(values, parameters[FULL], 1e6, max_positions)
    return Rope(*full, *_read_parameters(values, parameters[SLIDING], 1e4, max_positions))


def _read_share(values: ConfigValues, rope: Mapping[str, Any], family: Family) -> float:
    share = rope.get("partial_rotary_factor")
    if share is None or share == 1:
        return 1.0
    if not family.partial_rotary:
        values.problems.append(
            f"partial_rotary_factor {share!r} is not supported: {family.architecture} of transformers turns whole heads"
        )
    elif not isinstance(share, int | float) or not 0 < share < 1:
        values.problems.append(f"partial_rotary_factor must be within 0 and 1, not {share!r}")
    else:
        return float(share)
    return 1.0


def _read_parameters(
    values: ConfigValues, rope: Mapping[str, Any], default_base: float, max_positions: int
) -> tuple[float, RotaryScaling | None]:
    base = ConfigValues(rope, {})
    theta = base.number("rope_theta", default_base)
    values.problems.extend(base.problems)
    try:
        return theta, parse_rotary_scaling(rope, max_positions)
    except ValueError as error:
        values.problems.append(str(error))
        return theta, None

"""Which layers of a Hugging Face model see a window and which see all positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from inflight.convert.checkpoint.config import LayerType
from inflight.convert.families.config_values import ConfigValues
from inflight.convert.families.family import Family

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True, slots=True)
class LayerKinds:
    """`window` of the layers that `types` calls sliding; of every layer where `types` is None.

    `pattern`: of so many layers the last is a full one, throughout; None where the layers follow none. `without_rope`
    are numbers of layers without rotary embedding; None: all have it.
    """

    window: int | None = None
    types: tuple[LayerType, ...] | None = None
    pattern: int | None = None
    without_rope: tuple[int, ...] | None = None


def read_layer_kinds(values: ConfigValues, family: Family, num_layers: int) -> LayerKinds:
    """The kinds that transformers gives the layers of this family."""
    if family.skips_rope:
        return _skipping(values, family, num_layers)
    if family.sliding_window == "never":
        return LayerKinds()
    types = _layer_types(values, family, num_layers)
    turns_in_windows = family.rope_in_windows and values.raw.get("sliding_window") is not None
    if SLIDING not in types:
        return LayerKinds(without_rope=tuple(range(num_layers)) if turns_in_windows else None)
    if values.raw.get("sliding_window") is None:
        values.problems.append(f"layer_types lists {SLIDING} layers, and sliding_window is null")
        return LayerKinds()
    window = values.count("sliding_window")
    if FULL not in types:
        return LayerKinds(window)
    without_rope = tuple(layer for layer, kind in enumerate(types) if kind == FULL)
    kinds = cast("tuple[LayerType, ...]", tuple(types))
    return LayerKinds(window, kinds, _pattern(types), without_rope if turns_in_windows else None)


def _skipping(values: ConfigValues, family: Family, num_layers: int) -> LayerKinds:
    """Layers without rotary embedding; those that have it see chunks, where the family has chunks."""
    without_rope = _layers_without_rope(values, num_layers)
    if family.sliding_window != "chunked":
        return LayerKinds(without_rope=without_rope)
    types = values.raw.get("layer_types")
    if types is None:
        chunked = values.raw.get("attention_chunk_size") is not None
        types = [CHUNKED if chunked and layer not in (without_rope or ()) else FULL for layer in range(num_layers)]
    if not isinstance(types, list) or len(types) != num_layers or not {*map(str, types)} <= {FULL, CHUNKED}:
        values.problems.append(f"layer_types must have {FULL} or {CHUNKED} for each of {num_layers} layers")
        types = [FULL]
    elif CHUNKED in types and values.raw.get("attention_chunk_size") is None:
        values.problems.append(f"layer_types lists {CHUNKED} layers, and attention_chunk_size is null")
        types = [FULL]
    kinds = cast("tuple[LayerType, ...]", tuple(types))
    return LayerKinds(types=kinds if CHUNKED in types else None, without_rope=without_rope)


def _layers_without_rope(values: ConfigValues, num_layers: int) -> tuple[int, ...] | None:
    """no_rope_layers has a 0 for each of these layers; every so many of them where it is silent."""
    flags = values.raw.get("no_rope_layers")
    if flags is None:
        every = values.count("no_rope_layer_interval")
        flags = [int((layer + 1) % every != 0) for layer in range(num_layers)]
    if not isinstance(flags, list) or len(flags) != num_layers or any(flag not in (0, 1) for flag in flags):
        values.problems.append(f"no_rope_layers must have a 0 or a 1 for each of {num_layers} layers, not {flags!r}")
        return None
    return tuple(layer for layer, flag in enumerate(flags) if not flag) or None


def _layer_types(values: ConfigValues, family: Family, num_layers: int) -> list[str]:
    """A kind for each layer: as layer_types lists them, or as the family's other keys have it."""
    listed = values.raw.get("layer_types")
    if listed is None:
        return _default_types(values, family, num_layers)
    kinds = set(map(str, listed)) if isinstance(listed, list) else set()
    if not isinstance(listed, list) or not kinds <= {FULL, SLIDING}:
        text = ", ".join(sorted(kinds - {FULL, SLIDING})) or repr(listed)
        values.problems.append(f"layer_types may list {FULL} and {SLIDING}, not {text}")
    elif len(listed) != num_layers:
        values.problems.append(f"layer_types has {len(listed)} entries for {num_layers} layers")
    elif family.sliding_window == "always" and listed != (by_default := _default_types(values, family, num_layers)):
        values.problems.append(
            f"layer_types other than {by_default[0]} throughout: {family.architecture} of transformers ignores it"
        )
    elif family.sliding_window == "switched" and SLIDING in kinds and not values.flag("use_sliding_window"):
        values.problems.append(f"layer_types lists {SLIDING} layers, and use_sliding_window is false")
    else:
        return listed
    return [FULL] * num_layers


def _default_types(values: ConfigValues, family: Family, num_layers: int) -> list[str]:
    if family.sliding_window == "switched":
        first = _first_window_layer(values, num_layers)
        return [FULL if layer < first else SLIDING for layer in range(num_layers)]
    if family.full_attention_every is None:
        return [FULL if values.raw.get("sliding_window") is None else SLIDING] * num_layers
    every = family.full_attention_every
    every = values.count(every) if isinstance(every, str) else every
    first = 0 if family.full_attention_first else 1
    return [SLIDING if (layer + first) % every else FULL for layer in range(num_layers)]


def _first_window_layer(values: ConfigValues, num_layers: int) -> int:
    """The first layer that has a window where layer_types is silent; `num_layers` when none has."""
    if not values.flag("use_sliding_window") or values.raw.get("sliding_window") is None:
        return num_layers
    first: Any = values.raw.get("max_window_layers")
    if isinstance(first, int):
        return first
    values.problems.append(f"max_window_layers must be an integer, not {first!r}")
    return num_layers


def _pattern(types: list[str]) -> int | None:
    every = types.index(FULL) + 1
    expected = [SLIDING if (layer + 1) % every else FULL for layer in range(len(types))]
    return every if types == expected else None

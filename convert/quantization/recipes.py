"""The recipes of `inflight convert --quantize`: all round to nearest, without calibration data."""

from __future__ import annotations

from collections.abc import Mapping

from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.facts import Activations, QuantizationFacts, QuantizationRecord, SchemeName
from inflight.convert.quantization.round_to_nearest import INT4_DIVISORS, INT8_GREATEST
from inflight.convert.quantization.scheme import ALWAYS_EXCLUDED, INT4_ALGORITHM, WEIGHT_LAYOUT

# The algorithm that the checkpoint names, and the type of the rows. int4_w4a8 has no name of its own: its weights are
# those of W4A16_AWQ, and how activations are rounded is decided where it runs.
_RECIPES: Mapping[SchemeName, tuple[str, Activations]] = {
    "int8_wo": ("W8A16", "int16"),
    "int8_w8a8": ("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "int8"),
    "int4_wo": (INT4_ALGORITHM, "int16"),
    "int4_w4a8": (INT4_ALGORITHM, "int8"),
}


def quantization_facts(options: ConvertOptions) -> QuantizationFacts:
    """The `quantization` block of config.json."""
    if options.quantize is None:
        return QuantizationFacts()
    algorithm, _ = _RECIPES[options.quantize]
    return QuantizationFacts(
        quant_algo=algorithm,
        group_size=options.group_size,
        exclude_modules=(ALWAYS_EXCLUDED, *options.exclude_modules),
        weight_layout=None if algorithm == INT4_ALGORITHM else WEIGHT_LAYOUT,
    )


def quantization_record(options: ConvertOptions) -> QuantizationRecord | None:
    """What the `inflight` block keeps of the recipe."""
    if options.quantize is None:
        return None
    algorithm, activations = _RECIPES[options.quantize]
    divisors = INT4_DIVISORS if algorithm == INT4_ALGORITHM else (float(INT8_GREATEST),)
    return QuantizationRecord(scheme=options.quantize, activations=activations, scale_divisors=divisors)

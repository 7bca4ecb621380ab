"""What `inflight convert --quantize` writes into config.json: every recipe rounds to nearest, without calibration."""

from __future__ import annotations

from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.scheme import WEIGHT_LAYOUT
from inflight.convert.quantization.schemes import RECIPES


def quantization_facts(options: ConvertOptions) -> QuantizationFacts:
    """The `quantization` block of config.json."""
    if options.quantize is None:
        return QuantizationFacts()
    scheme = RECIPES[options.quantize]
    return QuantizationFacts(
        quant_algo=scheme.algorithm,
        group_size=options.group_size,
        exclude_modules=(*scheme.excluded, *options.exclude_modules),
        weight_layout=WEIGHT_LAYOUT if scheme.weights.guarded else None,
    )


def quantization_record(options: ConvertOptions) -> QuantizationRecord | None:
    """What the `inflight` block keeps of the recipe."""
    if options.quantize is None:
        return None
    scheme = RECIPES[options.quantize]
    return QuantizationRecord(scheme=scheme.name, activations=scheme.rows.dtype, scale_divisors=scheme.divisors)

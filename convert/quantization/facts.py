"""The quantization facts of config.json: the documented block, and the record under "inflight"."""

from __future__ import annotations

from typing import Literal

from inflight.records import Record

SchemeName = Literal["int8_wo", "int8_w8a8", "int4_wo", "int4_w4a8"]
Activations = Literal["int8", "int16", "float8_e4m3fn"]


class QuantizationFacts(Record):
    """The `quantization` block; `quant_algo` null means plain weights.

    `weight_layout` is ours, and written only where the format's own reader must not take the weights for its own: it
    refuses a block with a key that it does not know.
    """

    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    group_size: int = 128
    smoothquant_val: float = 0.5
    clamp_val: tuple[float, float] | None = None
    use_meta_recipe: bool = False
    has_zero_point: bool = False
    pre_quant_scale: bool = False
    exclude_modules: tuple[str, ...] | None = None
    weight_layout: Literal["out_in"] | None = None


class QuantizationRecord(Record):
    """What the format has no field for: the recipe, and the type to which the rows of a product are rounded.

    `scale_divisors`: the scale of a group is its greatest magnitude over that one of these which loses least.
    """

    scheme: SchemeName
    activations: Activations
    rounding: Literal["nearest"] = "nearest"
    scale_divisors: tuple[float, ...]

"""The quantization facts of config.json: the documented block, and the record under "inflight"."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from inflight.convert.quantization.schemes import ALIASES, RECIPES, SCHEMES, Method, RowDtype
from inflight.records import Record


def _known(name: str) -> str:
    name = ALIASES.get(name, name)
    if name not in RECIPES:
        raise ValueError(f"{name!r} is none of {', '.join(RECIPES)}")
    return name


def _scheme(name: str) -> str:
    if name not in {scheme.name for scheme in SCHEMES}:
        raise ValueError(f"{name!r} is no scheme")
    return name


SchemeName = Annotated[str, AfterValidator(_known)]


class QuantizationFacts(Record):
    """The `quantization` block, or what quant_cfg.json has of one module; `quant_algo` null means plain weights.

    `clamp_val`: rows of 8-bit floats with scales of their own are cut to this range first. `weight_layout` is ours,
    and written only where the format's own reader must not take the weights for its own: it refuses a block with a key
    that it does not know. `desc_act`, of such weights alone: levels lie in an order of the inputs that is stored with
    them (GPTQ's name for what makes one useful).
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
    desc_act: bool = False


class QuantizationRecord(Record):
    """What the format has no field for: the recipe, and the type to which the rows of a product are rounded.

    `rounding`: "kept" where nothing was rounded, because the source had these levels and scales.
    `scale_divisors`: the scale of a group is its greatest magnitude over that one of these which loses least.
    `modules`: the modules that it is about, by their paths; none: all that no other record names.
    """

    scheme: Annotated[str, AfterValidator(_scheme)]
    activations: RowDtype
    rounding: Method | Literal["kept"] = "nearest"
    scale_divisors: tuple[float, ...]
    modules: tuple[str, ...] = ()

"""Every quantization scheme: what a checkpoint stores of a matrix, what the numbers mean, and how they are made.

A scheme is one object here. What the builder does with it, it looks up by the facts of the object
(build/quantization/forms.py), so that a scheme made of known parts is nothing but the object.
docs/extending/adding_a_scheme.md goes through the steps.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

WeightDtype = Literal["int8", "int4", "float8_e4m3fn"]
RowDtype = Literal["int8", "int16", "float8_e4m3fn"]
ScaleShare = Literal["matrix", "row", "group"]
RowScale = Literal["own", "stored"]
Method = Literal["nearest", "gptq", "smoothquant", "measured"]

# Names of the tensors beside a weight.
GROUP_SCALE, ROW_SCALE, ACTIVATION_SCALE = ".weights_scaling_factor", ".per_channel_scale", ".activation_scaling_factor"
INPUT_FACTORS, ZERO_POINT = ".prequant_scaling_factor", ".zero"
SCALE_SUFFIXES = (GROUP_SCALE, ROW_SCALE, ACTIVATION_SCALE, INPUT_FACTORS, ZERO_POINT)
EMBEDDING = "*vocab_embedding"


class StoredWeights(NamedTuple):
    """Matrices (out, in) of `dtype`; a number is its level times its scale.

    Which levels share a scale: those of one `matrix` (scale shape (1,)), of one `row` of outputs ((out,)), or of a
    `group` of neighbouring inputs of a row ((out, groups)). Scales are float32, called after their module and `suffix`.
    `guarded`: config.json says so with the key `weight_layout`, which the format's own reader refuses; under this
    algorithm it would take the weights for ones that are interleaved for its GPU.
    """

    dtype: WeightDtype
    scale: ScaleShare
    suffix: str
    guarded: bool = False


class RoundedRows(NamedTuple):
    """To what the rows are rounded that meet such a weight.

    `scale`: each row has its `own`, its greatest magnitude over the greatest level, or one is `stored` for all rows
    of the matrix, float32 (1,).
    """

    dtype: RowDtype
    scale: RowScale = "own"


class QuantScheme(NamedTuple):
    """One scheme. `algorithm` is the checkpoint's `quant_algo`.

    Of schemes that share an algorithm the first is meant when the checkpoint does not tell. `divisors`: as `convert
    --quantize NAME` makes it, the scale is the greatest magnitude over that one of these which loses least; none: it
    is read and not made. `excluded`: fnmatch patterns on modules that are then left unquantized. `modules`: pairs of a
    pattern and the scheme that its modules then have. `method`: how levels are chosen, "nearest" without a text, the
    others by calibration (convert/calibration). `scaled_inputs`: rows are always multiplied by factors before they are
    rounded; with other schemes the checkpoint says whether they are.
    """

    name: str
    algorithm: str
    weights: StoredWeights
    rows: RoundedRows
    divisors: tuple[float, ...] = ()
    excluded: tuple[str, ...] = (EMBEDDING,)
    modules: tuple[tuple[str, str], ...] = ()
    method: Method = "nearest"
    scaled_inputs: bool = False


_INT4 = StoredWeights("int4", "group", GROUP_SCALE)
_INT8 = StoredWeights("int8", "row", ROW_SCALE, guarded=True)
_INT8_GROUPS = StoredWeights("int8", "group", GROUP_SCALE, guarded=True)
# The first keeps every value within -7 .. 7; the others cut the extremes of a group off where that serves the rest.
_INT4_DIVISORS = (7.0, 7.5, 8.0, 8.5, 9.0)
# Negative ones give the extreme of a group the level -8, which has a step more than 7.
_GPTQ_DIVISORS = (-8.0, -7.5, -8.5, -9.0, -9.5, 7.0, 7.5, 8.0)
# The vocabulary projection of the int4 schemes has 8 bits: with 4, half of what they lose is lost there.
_HEAD_WO, _HEAD_A8 = (("lm_head", "int8_wo"),), (("lm_head", "int8_w8a8"),)

SCHEMES: tuple[QuantScheme, ...] = (
    QuantScheme("int4_wo", "W4A16_AWQ", _INT4, RoundedRows("int16"), _INT4_DIVISORS, modules=_HEAD_WO),
    # No algorithm of its own: its weights are those of W4A16_AWQ; how activations are rounded is the engine's choice.
    QuantScheme("int4_w4a8", "W4A16_AWQ", _INT4, RoundedRows("int8"), _INT4_DIVISORS, modules=_HEAD_A8),
    QuantScheme("int4_gptq", "W4A16_AWQ", _INT4, RoundedRows("int16"), _GPTQ_DIVISORS, modules=_HEAD_WO, method="gptq"),
    QuantScheme("w4a8_gptq", "W4A16_AWQ", _INT4, RoundedRows("int8"), _GPTQ_DIVISORS, modules=_HEAD_WO, method="gptq"),
    # The format's own reader keeps lm_head plain under FP8.
    QuantScheme(
        "fp8",
        "FP8",
        StoredWeights("float8_e4m3fn", "matrix", GROUP_SCALE),
        RoundedRows("float8_e4m3fn", "stored"),
        (448.0,),
        ("*lm_head", EMBEDDING),
        method="measured",
    ),
    QuantScheme(
        "fp8_rowwise",
        "FP8_PER_CHANNEL_PER_TOKEN",
        StoredWeights("float8_e4m3fn", "row", ROW_SCALE),
        RoundedRows("float8_e4m3fn"),
        (448.0,),
        ("*lm_head", EMBEDDING),
    ),
    # Read and not made: the scale of all rows is measured. Nothing of it is laid out for a GPU.
    QuantScheme(
        "int8_sq_static",
        "W8A8_SQ_PER_CHANNEL",
        StoredWeights("int8", "row", GROUP_SCALE),
        RoundedRows("int8", "stored"),
        scaled_inputs=True,
    ),
    # As ModelOpt writes it: no weight is laid out for a GPU, which the name of the scales tells.
    QuantScheme("int8_wo_portable", "W8A16", StoredWeights("int8", "row", GROUP_SCALE), RoundedRows("int16")),
    # Rows times their factors by one measured scale, weights with 16 bits of precision.
    QuantScheme("int4_fp8_static", "W4A8_AWQ", _INT4, RoundedRows("float8_e4m3fn", "stored"), scaled_inputs=True),
    # What other formats store in groups of 8 bits (or of 5 and 6) has these numbers.
    QuantScheme("int8_groups_wo", "W8A16_GPTQ", _INT8_GROUPS, RoundedRows("int16")),
    QuantScheme("int8_groups_w8a8", "W8A16_GPTQ", _INT8_GROUPS, RoundedRows("int8")),
    QuantScheme("int8_wo", "W8A16", _INT8, RoundedRows("int16"), (127.0,)),
    QuantScheme("int8_w8a8", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", _INT8, RoundedRows("int8"), (127.0,)),
    # Rows behind a norm have the outliers; the other two projections lose nothing that smoothing would mend.
    QuantScheme(
        "int8_sq",
        "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
        _INT8,
        RoundedRows("int8"),
        (127.0,),
        modules=(*_HEAD_WO, ("*.attention.dense", "int8_w8a8"), ("*.mlp.proj", "int8_w8a8")),
        method="smoothquant",
    ),
)
# What `convert --quantize` offers.
RECIPES: dict[str, QuantScheme] = {
    scheme.name: scheme for scheme in sorted(SCHEMES, key=lambda scheme: scheme.name) if scheme.divisors
}

# Names that mean a recipe: `int4` is the one that loses least.
ALIASES: dict[str, str] = {"int4": "int4_gptq"}


def schemes_of(algorithm: str) -> list[QuantScheme]:
    """The schemes that a checkpoint calls by this `quant_algo`; the first is meant when it does not tell which."""
    return [scheme for scheme in SCHEMES if scheme.algorithm == algorithm]

"""Every quantization scheme: what a checkpoint stores of a matrix, what the numbers mean, and how they are made.

A scheme is one object here. What the builder does with it, it looks up by the facts of the object
(build/quantization/forms.py), so that a scheme made of known parts is nothing but the object.
docs/extending/adding_a_scheme.md goes through the steps.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

WeightDtype = Literal["int8", "int4", "uint4", "float8_e4m3fn"]
RowDtype = Literal["int8", "int16", "bfloat16", "float8_e4m3fn"]
ScaleShare = Literal["matrix", "row", "group"]
RowScale = Literal["own", "stored"]
GroupSize = Literal[16, 32, 64, 128]
Codebook = Literal["nf4", "fp4", "e2m1", "iq4"]
Method = Literal["nearest", "gptq", "awq", "smoothquant", "smoothed_gptq"]

# Names of the tensors beside a weight.
GROUP_SCALE, ROW_SCALE, ACTIVATION_SCALE = ".weights_scaling_factor", ".per_channel_scale", ".activation_scaling_factor"
INPUT_FACTORS, ZERO_POINT, INPUT_ORDER = ".prequant_scaling_factor", ".zero", ".input_order"
# Of the KV cache of a layer: of keys, of values, or of both.
CACHE_FACTOR = "_cache_scaling_factor"
# The greatest magnitude of the weights over 448, in W4A8_AWQ.
BOUND = ".weights_scaling_factor_2"
SCALE_SUFFIXES = (GROUP_SCALE, ROW_SCALE, ACTIVATION_SCALE, INPUT_FACTORS, ZERO_POINT, INPUT_ORDER, BOUND, CACHE_FACTOR)
EMBEDDING, POSITIONS = "*vocab_embedding", "*position_embedding"


class StoredWeights(NamedTuple):
    """Matrices (out, in) of `dtype`; a number is its level times its scale.

    Which levels share a scale: those of one `matrix` (scale shape (1,)), of one `row` of outputs ((out,)), or of a
    `group` of neighbouring inputs of a row ((out, groups)). Scales are float32, called after their module and `suffix`.
    `guarded`: config.json says so with the key `weight_layout`, which the format's own reader refuses; under this
    algorithm it would take the weights for ones that are interleaved for its GPU. `codebook`: levels are codes, and the
    numbers of that table stand in their place. `bound`: written for readers whose weights are E4M3, a scale over which
    they fit (BOUND); nothing here needs it.
    """

    dtype: WeightDtype
    scale: ScaleShare
    suffix: str
    guarded: bool = False
    codebook: Codebook | None = None
    bound: bool = False


class RoundedRows(NamedTuple):
    """To what the rows are rounded that meet such a weight.

    `scale`: each row has its `own`, its greatest magnitude over the greatest level (that of bfloat16 rows is 1), or one
    is `stored` for all rows of the matrix, float32 (1,).
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
    rounded; with other schemes the checkpoint says whether they are. `loss`: by how much perplexity grew where it was
    measured, of a scheme that no conversion measures (docs/measured/accuracy.md). `group_size`: of its groups, where
    the options do not say; 0: the options' own default. `multiples`: rounding to nearest makes the scales of groups
    whole multiples of one unit a row (multiples.py), as GPTQ always does.
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
    loss: float | None = None
    group_size: int = 0
    multiples: bool = False


# A scheme that loses more says so when it is chosen.
MOST_LOSS = 0.15

_INT4 = StoredWeights("int4", "group", GROUP_SCALE)
_INT8 = StoredWeights("int8", "row", ROW_SCALE, guarded=True)
_INT8_GROUPS = StoredWeights("int8", "group", GROUP_SCALE, guarded=True)
_FLOAT8 = StoredWeights("float8_e4m3fn", "row", ROW_SCALE, guarded=True)
_FLOAT8_GROUPS = StoredWeights("float8_e4m3fn", "group", GROUP_SCALE, guarded=True)


def _codes(codebook: Codebook) -> StoredWeights:
    return StoredWeights("uint4", "group", GROUP_SCALE, guarded=True, codebook=codebook)


# The first keeps every value within -7 .. 7; the others cut the extremes of a group off where that serves the rest.
_INT4_DIVISORS = (7.0, 7.5, 8.0, 8.5, 9.0)
# Negative ones give the extreme of a group the level -8, which has a step more than 7.
_GPTQ_DIVISORS = (-8.0, -7.5, -8.5, -9.0, -9.5, 7.0, 7.5, 8.0)
# The extreme of a group is cut off by up to a half.
_AWQ_DIVISORS = tuple(7 / (1 - each / 20) for each in range(11))
# Within a power of two E4M3 has eight steps: the extreme gets one of the levels there, whichever serves the rest.
_FLOAT8_DIVISORS = (448.0, 416.0, 384.0, 352.0, 320.0, 288.0, 256.0, 240.0)
# The vocabulary projection of the int4 schemes has 8 bits: with 4, half of what they lose is lost there.
_HEAD_WO, _HEAD_A8 = (("lm_head", "int8_wo"),), (("lm_head", "int8_w8a8"),)

SCHEMES: tuple[QuantScheme, ...] = (
    QuantScheme(
        "int4_wo", "W4A16_AWQ", _INT4, RoundedRows("int16"), _INT4_DIVISORS, modules=_HEAD_WO, loss=0.31, multiples=True
    ),
    # No algorithm of its own: its weights are those of W4A16_AWQ; how activations are rounded is the engine's choice.
    QuantScheme(
        "int4_w4a8",
        "W4A16_AWQ",
        _INT4,
        RoundedRows("int8"),
        _INT4_DIVISORS,
        modules=_HEAD_A8,
        loss=0.31,
        multiples=True,
    ),
    QuantScheme(
        "int4_gptq",
        "W4A16_AWQ",
        _INT4,
        RoundedRows("int16"),
        _GPTQ_DIVISORS,
        modules=_HEAD_WO,
        method="gptq",
        group_size=16,
    ),
    QuantScheme(
        "w4a8_gptq",
        "W4A16_AWQ",
        _INT4,
        RoundedRows("int8"),
        _GPTQ_DIVISORS,
        modules=_HEAD_WO,
        method="gptq",
        group_size=16,
    ),
    # The same; rows behind a norm, which have the outliers, are smoothed first, by factors that are folded into it.
    QuantScheme(
        "w4a8_sq",
        "W4A16_AWQ",
        _INT4,
        RoundedRows("int8"),
        _GPTQ_DIVISORS,
        modules=(*_HEAD_WO, ("*.attention.dense", "w4a8_gptq"), ("*.mlp.proj", "w4a8_gptq")),
        method="smoothed_gptq",
        group_size=16,
    ),
    # As quantize.py makes it: the vocabulary projection is plain, and the format's own reader takes the checkpoint.
    QuantScheme(
        "int4_awq", "W4A16_AWQ", _INT4, RoundedRows("int16"), _AWQ_DIVISORS, ("*lm_head", EMBEDDING), method="awq"
    ),
    # The format's own reader keeps lm_head plain under FP8.
    QuantScheme(
        "fp8_tensorwise",
        "FP8",
        StoredWeights("float8_e4m3fn", "matrix", GROUP_SCALE),
        RoundedRows("float8_e4m3fn", "stored"),
        _FLOAT8_DIVISORS,
        ("*lm_head", EMBEDDING),
        method="gptq",
    ),
    QuantScheme(
        "fp8_rowwise",
        "FP8_PER_CHANNEL_PER_TOKEN",
        StoredWeights("float8_e4m3fn", "row", ROW_SCALE),
        RoundedRows("float8_e4m3fn"),
        _FLOAT8_DIVISORS,
        ("*lm_head", EMBEDDING),
        method="gptq",
    ),
    # What sources of 8-bit floats store has these numbers: E4M3 is exact in bfloat16, and so meets rows of it.
    QuantScheme("fp8_wo", "W8A16_FP8", _FLOAT8, RoundedRows("bfloat16")),
    QuantScheme("fp8_groups_wo", "W8A16_FP8_GROUPS", _FLOAT8_GROUPS, RoundedRows("bfloat16")),
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
    # Rows times their factors by one measured scale, weights with 16 bits of precision. Groups are those of the GPU
    # kernels of the format's own reader.
    QuantScheme(
        "w4a8_awq",
        "W4A8_AWQ",
        _INT4._replace(bound=True),
        RoundedRows("float8_e4m3fn", "stored"),
        _AWQ_DIVISORS,
        ("*lm_head", EMBEDDING),
        method="awq",
        scaled_inputs=True,
        group_size=128,
    ),
    # What other formats store in groups of 8 bits (or of 5 and 6) has these numbers.
    QuantScheme("int8_groups_wo", "W8A16_GPTQ", _INT8_GROUPS, RoundedRows("int16")),
    QuantScheme("int8_groups_w8a8", "W8A16_GPTQ", _INT8_GROUPS, RoundedRows("int8")),
    QuantScheme(
        "nf4", "W4A16_NF4", _codes("nf4"), RoundedRows("int16"), (1.0,), modules=_HEAD_WO, group_size=64, loss=0.24
    ),
    QuantScheme("fp4", "W4A16_FP4", _codes("fp4"), RoundedRows("int16")),
    QuantScheme("mxfp4", "W4A16_MXFP4", _codes("e2m1"), RoundedRows("int16")),
    QuantScheme("iq4", "W4A16_IQ4", _codes("iq4"), RoundedRows("int16")),
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

# Names that mean a recipe: `int4` and `fp8` are those that lose least.
ALIASES: dict[str, str] = {"int4": "w4a8_sq", "fp8": "fp8_rowwise", "bitsandbytes-nf4": "nf4"}


def schemes_of(algorithm: str) -> list[QuantScheme]:
    """The schemes that a checkpoint calls by this `quant_algo`; the first is meant when it does not tell which."""
    return [scheme for scheme in SCHEMES if scheme.algorithm == algorithm]

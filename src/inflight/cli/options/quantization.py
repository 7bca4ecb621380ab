"""The options of `inflight convert` that quantize, and what their values mean together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, get_args

import typer

from inflight.cli.options.sampling import BUILD, SCORE_TOKENS_HELP
from inflight.convert.quantization.schemes import ALIASES, RECIPES
from inflight.convert.quantization.schemes import GroupSize as GroupSizes
from inflight.migration.quantization import KEPT, SCHEMES, UNREAD


class WeightOnlyPrecision(str, Enum):
    int8 = "int8"
    int4 = "int4"
    int4_gptq = "int4_gptq"
    int4_awq = "int4_awq"


# Names that say what a model is, and no scheme.
_INSTEAD = "Leave the option out: a model that is quantized already keeps its numbers."


def _known_recipe(name: str | None) -> str | None:
    """The name of a scheme; those of other tools become the one here. Raises BadParameter."""
    if name is None or name in RECIPES or name in ALIASES:
        return name
    if name in UNREAD:
        raise typer.BadParameter(f"{name} {UNREAD[name]}.")
    if name in SCHEMES:
        return SCHEMES[name] or None
    known = ", ".join(map(repr, [*ALIASES, *RECIPES]))
    raise typer.BadParameter(f"{name!r} is not one of {known}.{' ' + _INSTEAD if name in KEPT else ''}")


def _known_group_size(size: int | None) -> int | None:
    """A value of --group-size, if it is one. Raises BadParameter."""
    known = get_args(GroupSizes)
    if size not in (None, *known):
        raise typer.BadParameter(f"groups have {', '.join(map(str, known[:-1]))} or {known[-1]} inputs, not {size}.")
    return size


Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        "--quantization",
        "--qformat",
        metavar=f"[{'|'.join([*ALIASES, *RECIPES])}]",
        callback=_known_recipe,
        help="Quantize the weights. int4 (= w4a8_sq), int4_gptq, int4_awq, w4a8_awq, w4a8_gptq, int8_sq, fp8 (= "
        "fp8_rowwise) and fp8_tensorwise are calibrated on a text (--calib-dataset); the others round to nearest, by "
        "which int4_wo and int4_w4a8 lose far more. int8: a scale per output channel; int4: one per group of inputs. "
        "int8_wo, int4_gptq, int4_awq: weight-only, activations keep 16 bits. int8_sq, int8_w8a8, w4a8_sq, w4a8_gptq, "
        "int4_w4a8: activations have 8 bits as well, which is faster with many users and long prompts; int8_sq and "
        "w4a8_sq smooth their outliers. fp8: 8-bit floats (E4M3), activations as well, a scale for each row of both; "
        "fp8_tensorwise: one for the matrix and a stored one for all rows; w4a8_awq: int4 weights with such "
        "activations. nf4 (= bitsandbytes-nf4): codes of 16 unequal steps, weight-only.",
    ),
]
Dequantize = Annotated[
    bool,
    typer.Option(
        "--dequantize",
        help="Write plain weights of a model that is quantized already; without it, and without --quantize, "
        "integers and scales that can be kept are kept.",
    ),
]
ScoreTokens = Annotated[
    str | None,
    typer.Option("--score-tokens", "--score_tokens", metavar="TOKEN[,TOKEN]", help=SCORE_TOKENS_HELP),
]
GroupSize = Annotated[
    int,
    typer.Option(
        "--group-size",
        "--group_size",
        "--awq_block_size",
        callback=_known_group_size,
        show_default="the scheme's: 16 with GPTQ, 64 for nf4, 128 for w4a8_awq, else 32",
        help="Inputs of a row that share a scale, of int4 and nf4: 16, 32, 64 or 128.",
    ),
]
# Of commands that build.
BuiltGroupSize = Annotated[
    int | None,
    typer.Option(
        "--group-size",
        callback=_known_group_size,
        help="Inputs that share a scale, of int4 and nf4: 16, 32, 64 or 128.",
        rich_help_panel=BUILD,
    ),
]
QuantizeModule = Annotated[
    list[str] | None,
    typer.Option(
        "--quantize-module",
        "--quantize_module",
        metavar="PATTERN=SCHEME",
        help='Modules to quantize in another way, such as "lm_head=int8_wo" or "*.mlp.*=int4_w4a8"; may be '
        "repeated, and the first pattern that matches counts. The int4 schemes give lm_head int8 by themselves.",
    ),
]
ExcludeModules = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-modules",
        "--exclude_modules",
        help='Modules not to quantize: a pattern such as "lm_head" or "*.mlp.proj"; may be repeated.',
    ),
]
UseWeightOnly = Annotated[
    bool,
    typer.Option(
        "--use-weight-only", "--use_weight_only", help="Weight-only quantization (convert_checkpoint.py's flag)."
    ),
]
Precision = Annotated[
    WeightOnlyPrecision | None,
    typer.Option(
        "--weight-only-precision",
        "--weight_only_precision",
        help="With --use-weight-only: int8 (default) or int4 by rounding to nearest, or int4_gptq or int4_awq.",
    ),
]
UseFp8Rowwise = Annotated[
    bool, typer.Option("--use-fp8-rowwise", "--use_fp8_rowwise", help="As convert_checkpoint.py: fp8_rowwise.")
]
CalibrationText = Annotated[
    Path | None,
    typer.Option(
        "--calib-dataset",
        "--calib_dataset",
        help="Text of the calibrated schemes: a text file, or .jsonl with a record per line: a string, or an "
        "object with text, prompt and completion, question and answer, or messages. Take text like that of your "
        "users. Default: prose and code of the Python standard library.",
    ),
]
CalibrationSize = Annotated[
    int, typer.Option("--calib-size", "--calib_size", min=1, help="Sequences of it that are used.")
]
CalibrationLength = Annotated[
    int, typer.Option("--calib-max-seq-length", "--calib_max_seq_length", min=1, help="Most tokens of each.")
]
CalibrationSeed = Annotated[int, typer.Option("--random-seed", "--random_seed", help="Seed that picks the sequences.")]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="KL<=X",
        help="int4: how much may be lost on the text, as 'kl<=0.02' or 'ppl_ratio<=1.02,top1>=0.9'. The matrices "
        "that lose most for the time that they save get int8, as few as that needs; a budget that int8 cannot keep is "
        "refused.",
    ),
]
Smoothing = Annotated[
    float,
    typer.Option(
        "--smoothquant",
        "-sq",
        min=0,
        max=1,
        help="int8_sq, w4a8_sq: how much of the activations' outliers goes into the weights (alpha). Alone: int8_sq.",
    ),
]
UseFp8 = Annotated[bool, typer.Option("--use-fp8", "--use_fp8", help="As convert_checkpoint.py: fp8_tensorwise.")]


class CacheDtype(str, Enum):
    auto = "auto"
    int8 = "int8"
    fp8 = "fp8"


KvCacheDtype = Annotated[
    CacheDtype,
    typer.Option(
        "--kv-cache-dtype",
        "--kv_cache_dtype",
        help="KV cache of engines that are built from the checkpoint, unless they ask for another. auto: that of the "
        "source. fp8 has the source's factors, or those that a calibrated scheme measures, or 1.",
    ),
]
Int8KvCache = Annotated[
    bool, typer.Option("--int8-kv-cache", "--int8_kv_cache", help="As convert_checkpoint.py: --kv-cache-dtype int8.")
]
Fp8KvCache = Annotated[
    bool, typer.Option("--fp8-kv-cache", "--fp8_kv_cache", help="As convert_checkpoint.py: --kv-cache-dtype fp8.")
]


def cache_dtype(asked: CacheDtype, int8: bool, fp8: bool) -> str:
    """The type that the flags name, in whichever spelling."""
    given = {"--kv-cache-dtype": asked.value} if asked is not CacheDtype.auto else {}
    given |= {"--int8-kv-cache": "int8"} if int8 else {}
    given |= {"--fp8-kv-cache": "fp8"} if fp8 else {}
    return named_scheme(given) or "auto"


def module_schemes(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of PATTERN=SCHEME."""
    pairs = []
    for text in given:
        pattern, sign, name = text.rpartition("=")
        if not sign or not pattern:
            raise typer.BadParameter(f"--quantize-module {text!r} is not PATTERN=SCHEME.")
        pairs.append((pattern, _known_recipe(name) or name))
    return tuple(pairs)


def weight_only(asked: bool, precision: WeightOnlyPrecision | None) -> str | None:
    if precision is not None and not asked:
        raise typer.BadParameter("--weight-only-precision goes with --use-weight-only.")
    if not asked:
        return None
    name = (precision or WeightOnlyPrecision.int8).value
    return name if name in RECIPES else f"{name}_wo"


def named_scheme(given: Mapping[str, str]) -> str | None:
    """The recipe that the flags name, in whichever spelling."""
    if len(given) > 1:
        raise typer.BadParameter(f"Give {' or '.join(given)}, not both.")
    return next(iter(given.values()), None)

"""`inflight convert`: from a Hugging Face model to a checkpoint."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from inflight.cli.build_engine.recipe_flags import is_given
from inflight.cli.options.recipes import known_recipe, module_schemes
from inflight.convert.quantization.schemes import ALIASES, RECIPES


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class WeightOnlyPrecision(str, Enum):
    int8 = "int8"
    int4 = "int4"
    int4_gptq = "int4_gptq"


def convert(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Hugging Face model: a directory or a hub id; or a GGUF file.")
    ] = None,
    model_dir: Annotated[
        str | None, typer.Option("--model-dir", "--model_dir", help="The same as MODEL (convert_checkpoint.py's flag).")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--output_dir", "-o", help="Directory to write the checkpoint to.")
    ] = None,
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Data type of the weights. auto keeps the type of the model, float32 included "
            "(TensorRT-LLM's auto made float32 into float16)."
        ),
    ] = Dtype.auto,
    tp_size: Annotated[
        int,
        typer.Option(
            "--tp-size",
            "--tp_size",
            "--tensor-parallel-size",
            "-tp",
            min=1,
            help="Tensor parallelism: number of ranks that each layer is split over.",
        ),
    ] = 1,
    pp_size: Annotated[
        int,
        typer.Option(
            "--pp-size",
            "--pp_size",
            "--pipeline-parallel-size",
            "-pp",
            min=1,
            help="Pipeline parallelism: number of stages that the layers are divided into.",
        ),
    ] = 1,
    use_parallel_embedding: Annotated[
        bool,
        typer.Option(
            "--use-parallel-embedding",
            "--use_parallel_embedding",
            help="Split the embedding table over the tensor-parallel ranks.",
        ),
    ] = False,
    embedding_sharding_dim: Annotated[
        int,
        typer.Option(
            "--embedding-sharding-dim",
            "--embedding_sharding_dim",
            min=0,
            max=1,
            help="With --use-parallel-embedding: split along the vocabulary (0) or the hidden size (1).",
        ),
    ] = 0,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            "--qformat",
            metavar=f"[{'|'.join([*ALIASES, *RECIPES])}]",
            callback=known_recipe,
            help="Quantize the weights. int4 (= int4_gptq), w4a8_gptq, int8_sq and fp8 are calibrated on a text "
            "(--calib-dataset); the others round to nearest. int8: a scale per output channel; int4: one per group of "
            "inputs. int8_wo, int4: weight-only, activations keep 16 bits. int8_sq, int8_w8a8, w4a8_gptq, int4_w4a8: "
            "activations are rounded to 8 bits as well; faster with many users and long prompts. fp8, fp8_rowwise: "
            "8-bit floats (E4M3), activations as well.",
        ),
    ] = None,
    dequantize: Annotated[
        bool,
        typer.Option(
            "--dequantize",
            help="Write plain weights of a model that is quantized already; without it, and without --quantize, "
            "integers and scales that can be kept are kept.",
        ),
    ] = False,
    group_size: Annotated[
        int, typer.Option("--group-size", "--group_size", "--awq_block_size", help="Group size of int4: 32, 64 or 128.")
    ] = 32,
    quantize_module: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize-module",
            "--quantize_module",
            metavar="PATTERN=SCHEME",
            help='Modules to quantize in another way, such as "lm_head=int8_wo" or "*.mlp.*=int4_w4a8"; may be '
            "repeated, and the first pattern that matches counts. The int4 schemes give lm_head int8 by themselves.",
        ),
    ] = None,
    exclude_modules: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude-modules",
            "--exclude_modules",
            help='Modules not to quantize: a pattern such as "lm_head" or "*.mlp.proj"; may be repeated.',
        ),
    ] = None,
    use_weight_only: Annotated[
        bool,
        typer.Option(
            "--use-weight-only", "--use_weight_only", help="Weight-only quantization (convert_checkpoint.py's flag)."
        ),
    ] = False,
    weight_only_precision: Annotated[
        WeightOnlyPrecision | None,
        typer.Option(
            "--weight-only-precision",
            "--weight_only_precision",
            help="With --use-weight-only: int8 (default) or int4 by rounding to nearest, or int4_gptq.",
        ),
    ] = None,
    use_fp8_rowwise: Annotated[
        bool, typer.Option("--use-fp8-rowwise", "--use_fp8_rowwise", help="As convert_checkpoint.py: fp8_rowwise.")
    ] = False,
    calibration_text: Annotated[
        Path | None,
        typer.Option(
            "--calib-dataset",
            "--calib_dataset",
            help="Text of the calibrated schemes: a text file, or .jsonl with a record per line: a string, or an "
            "object with text, prompt and completion, question and answer, or messages. Take text like that of your "
            "users. Default: prose and code of the Python standard library.",
        ),
    ] = None,
    calibration_size: Annotated[
        int, typer.Option("--calib-size", "--calib_size", min=1, help="Sequences of it that are used.")
    ] = 64,
    calibration_length: Annotated[
        int, typer.Option("--calib-max-seq-length", "--calib_max_seq_length", min=1, help="Most tokens of each.")
    ] = 512,
    calibration_seed: Annotated[
        int, typer.Option("--random-seed", "--random_seed", help="Seed that picks the sequences.")
    ] = 0,
    smoothing: Annotated[
        float,
        typer.Option(
            "--smoothquant",
            "-sq",
            min=0,
            max=1,
            help="int8_sq: how much of the activations' outliers goes into the weights (alpha). Alone: int8_sq.",
        ),
    ] = 0.5,
    use_fp8: Annotated[bool, typer.Option("--use-fp8", "--use_fp8", help="As convert_checkpoint.py: fp8.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model. Set HF_TOKEN for private models.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT_DIR if it exists.")] = False,
) -> None:
    """Convert a Hugging Face model or a GGUF file to a checkpoint: config.json, rank{r}.safetensors and tokenizer/.

    config.json and the names and shapes of all tensors are checked first; everything that is missing, unknown or
    unsupported is reported in one message before any weight is read. Weights are then converted in chunks, so that a
    large model needs little memory. A model that is quantized already keeps its numbers (int4 and int8 of GGUF, GPTQ,
    AWQ, compressed-tensors), or is dequantized on the way.

    Examples:

      inflight convert Qwen/Qwen2.5-0.5B-Instruct --output-dir ckpt

      inflight convert ./Llama-3.2-1B -o ckpt --dtype bfloat16

      inflight convert ./Llama-3.2-1B -o ckpt --quantize int4_wo --group-size 64

      inflight convert ./Llama-3.2-1B -o ckpt --quantize int4_wo --quantize-module "*.attention.*=int8_wo"

      inflight convert ./SmolLM2-135M-Instruct.Q4_1.gguf -o ckpt

      inflight convert ./SmolLM2-135M-Instruct.Q4_1.gguf -o ckpt --dequantize

      inflight convert --model_dir ./Mistral-7B --output_dir ckpt --tp_size 2
    """
    if (model is None) == (model_dir is None):
        raise typer.BadParameter("Give the model once: as MODEL or with --model-dir.")
    if output_dir is None:
        raise typer.BadParameter("Say where the checkpoint goes: --output-dir CKPT.")
    if group_size not in (32, 64, 128):
        raise typer.BadParameter(f"--group-size {group_size}: groups have 32, 64 or 128 inputs.")

    formats = {
        "--quantize": quantize,
        "--use-weight-only": _weight_only(use_weight_only, weight_only_precision),
        "--use-fp8-rowwise": "fp8_rowwise" if use_fp8_rowwise else None,
        "--use-fp8": "fp8" if use_fp8 else None,
        "--smoothquant": "int8_sq" if quantize is None and is_given(ctx, "smoothing") else None,
    }
    scheme = _scheme({flag: name for flag, name in formats.items() if name is not None})

    from rich.filesize import decimal

    from inflight.convert.api import convert_model
    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.options import ConvertOptions

    values = {
        "dtype": dtype.value,
        "tp_size": tp_size,
        "pp_size": pp_size,
        "use_parallel_embedding": use_parallel_embedding,
        "embedding_sharding_dim": embedding_sharding_dim,
        "group_size": group_size,
        "dequantize": dequantize,
        "exclude_modules": tuple(exclude_modules or ()),
        "quantize_module": module_schemes(quantize_module or ()),
        "calibration_text": calibration_text,
        "calibration_size": calibration_size,
        "calibration_length": calibration_length,
        "calibration_seed": calibration_seed,
        "smoothing": smoothing,
        "revision": revision,
    }
    given = {name: value for name, value in values.items() if is_given(ctx, name)}
    modules = given.pop("quantize_module", ())
    options = ConvertOptions.model_validate(
        {**given, "quantize": scheme, "module_schemes": modules, "overwrite": force}
    )
    started = time.monotonic()
    for note in convert_model(model or model_dir or "", output_dir, options):
        typer.echo(note, err=True)
    checkpoint = Checkpoint.open(output_dir)
    if checkpoint.tokenizer_directory is None:
        typer.echo(f"{model or model_dir} has no tokenizer: the engine will take and give token ids only.", err=True)
    if checkpoint.config.inflight is None or not checkpoint.config.inflight.end_token_ids:
        typer.echo(
            f"{model or model_dir} names no end token: answers end at stop strings, stop tokens and max_tokens alone. "
            "eos_token_id in its generation_config.json would name one.",
            err=True,
        )
    size = sum(entry.nbytes for rank in checkpoint.ranks for entry in rank.values())
    quantized = f", {options.quantize}" if options.quantize else ""
    typer.echo(
        f"{output_dir}: {checkpoint.config.architecture}, {checkpoint.config.dtype}{quantized}, {decimal(size)} in "
        f"{len(checkpoint.ranks)} rank file(s), {time.monotonic() - started:.1f} s\n"
        f"Next: inflight build-engine --checkpoint-dir {shlex.quote(str(output_dir))} --output-dir ENGINE"
    )


def _weight_only(asked: bool, precision: WeightOnlyPrecision | None) -> str | None:
    if precision is not None and not asked:
        raise typer.BadParameter("--weight-only-precision goes with --use-weight-only.")
    if not asked:
        return None
    name = (precision or WeightOnlyPrecision.int8).value
    return name if name in RECIPES else f"{name}_wo"


def _scheme(given: Mapping[str, str]) -> str | None:
    """The recipe that the flags name, in whichever spelling."""
    if len(given) > 1:
        raise typer.BadParameter(f"Give {' or '.join(given)}, not both.")
    return next(iter(given.values()), None)

"""`inflight convert`: from a Hugging Face model to a checkpoint."""

from __future__ import annotations

import shlex
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from inflight.cli.build_engine.recipe_flags import is_given
from inflight.cli.options import quantization as flag


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def convert(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Hugging Face model: a directory, a hub id or an s3:// address; or a GGUF file."
        ),
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
    quantize: flag.Quantize = None,
    dequantize: flag.Dequantize = False,
    group_size: flag.GroupSize = 32,
    quantize_module: flag.QuantizeModule = None,
    exclude_modules: flag.ExcludeModules = None,
    use_weight_only: flag.UseWeightOnly = False,
    weight_only_precision: flag.Precision = None,
    use_fp8_rowwise: flag.UseFp8Rowwise = False,
    calibration_text: flag.CalibrationText = None,
    calibration_size: flag.CalibrationSize = 64,
    calibration_length: flag.CalibrationLength = 512,
    calibration_seed: flag.CalibrationSeed = 0,
    budget: flag.Budget = None,
    score_tokens: flag.ScoreTokens = None,
    smoothing: flag.Smoothing = 0.5,
    use_fp8: flag.UseFp8 = False,
    kv_cache_dtype: flag.KvCacheDtype = flag.CacheDtype.auto,
    int8_kv_cache: flag.Int8KvCache = False,
    fp8_kv_cache: flag.Fp8KvCache = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model. Set HF_TOKEN for private models.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT_DIR if it exists.")] = False,
) -> None:
    """Convert a Hugging Face model or a GGUF file to a checkpoint: config.json, rank{r}.safetensors and tokenizer/.

    config.json and the names and shapes of all tensors are checked first; everything that is missing, unknown or
    unsupported is reported in one message before any weight is read. Weights are then converted in chunks, so that a
    large model needs little memory. A model that is quantized already keeps its numbers (4 and 8 bits of GGUF, GPTQ,
    AWQ, bitsandbytes, compressed-tensors), or is dequantized on the way.

    Examples:

      inflight convert Qwen/Qwen2.5-0.5B-Instruct --output-dir ckpt

      inflight convert ./Llama-3.2-1B -o ckpt --dtype bfloat16

      inflight convert ./Llama-3.2-1B -o ckpt --quantize int4_wo --group-size 64

      inflight convert ./Llama-3.2-1B -o ckpt --quantize int4_wo --quantize-module "*.attention.*=int8_wo"

      inflight convert ./SmolLM2-135M-Instruct.Q4_1.gguf -o ckpt

      inflight convert ./SmolLM2-135M-Instruct.Q4_1.gguf -o ckpt --dequantize

      inflight convert ./Qwen3-Reranker-0.6B -o ckpt --score-tokens yes,no

      inflight convert --model_dir ./Mistral-7B --output_dir ckpt --tp_size 2
    """
    if (model is None) == (model_dir is None):
        raise typer.BadParameter("Give the model once: as MODEL or with --model-dir.")
    if output_dir is None:
        raise typer.BadParameter("Say where the checkpoint goes: --output-dir CKPT.")

    formats = {
        "--quantize": quantize,
        "--use-weight-only": flag.weight_only(use_weight_only, weight_only_precision),
        "--use-fp8-rowwise": "fp8_rowwise" if use_fp8_rowwise else None,
        "--use-fp8": "fp8_tensorwise" if use_fp8 else None,
        "--smoothquant": "int8_sq" if quantize is None and is_given(ctx, "smoothing") else None,
    }
    scheme = flag.named_scheme({flag: name for flag, name in formats.items() if name is not None})

    from rich.filesize import decimal

    from inflight.cli.engines.checkpoint_notes import checkpoint_notes
    from inflight.convert.api import convert_model
    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.options import ConvertOptions, read_score_tokens

    values = {
        "dtype": dtype.value,
        "tp_size": tp_size,
        "pp_size": pp_size,
        "use_parallel_embedding": use_parallel_embedding,
        "embedding_sharding_dim": embedding_sharding_dim,
        "group_size": group_size,
        "dequantize": dequantize,
        "exclude_modules": tuple(exclude_modules or ()),
        "quantize_module": flag.module_schemes(quantize_module or ()),
        "calibration_text": calibration_text,
        "calibration_size": calibration_size,
        "calibration_length": calibration_length,
        "calibration_seed": calibration_seed,
        "smoothing": smoothing,
        "budget": budget,
        "score_tokens": read_score_tokens(score_tokens),
        "revision": revision,
    }
    given = {name: value for name, value in values.items() if is_given(ctx, name)}
    modules = given.pop("quantize_module", ())
    given["kv_cache_dtype"] = flag.cache_dtype(kv_cache_dtype, int8_kv_cache, fp8_kv_cache)
    options = ConvertOptions.model_validate(
        {**given, "quantize": scheme, "module_schemes": modules, "overwrite": force}
    )
    started = time.monotonic()
    for note in convert_model(model or model_dir or "", output_dir, options):
        typer.echo(note, err=True)
    checkpoint = Checkpoint.open(output_dir)
    for note in checkpoint_notes(model or model_dir or "", checkpoint):
        typer.echo(note, err=True)
    size = sum(entry.nbytes for rank in checkpoint.ranks for entry in rank.values())
    quantized = f", {options.quantize}" if options.quantize else ""
    typer.echo(
        f"{output_dir}: {checkpoint.config.architecture}, {checkpoint.config.dtype}{quantized}, {decimal(size)} in "
        f"{len(checkpoint.ranks)} rank file(s), {time.monotonic() - started:.1f} s\n"
        f"Next: inflight build-engine --checkpoint-dir {shlex.quote(str(output_dir))} --output-dir ENGINE"
    )

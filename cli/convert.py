"""`inflight convert`: a Hugging Face model becomes a checkpoint."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def convert(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Directory of a Hugging Face model, or a hub id.")
    ] = None,
    model_dir: Annotated[
        str | None, typer.Option("--model-dir", "--model_dir", help="MODEL, as convert_checkpoint.py spells it.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "--output_dir", "-o", help="Where the checkpoint goes.")
    ] = None,
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Type of the weights. auto keeps the source's own type. "
            "(TensorRT-LLM's auto turned float32 into float16; this one does not.)"
        ),
    ] = Dtype.auto,
    tp_size: Annotated[
        int,
        typer.Option(
            "--tp-size", "--tp_size", "--tensor-parallel-size", "-tp", min=1, help="Ranks that share every layer."
        ),
    ] = 1,
    pp_size: Annotated[
        int,
        typer.Option(
            "--pp-size", "--pp_size", "--pipeline-parallel-size", "-pp", min=1, help="Stages that share the layers."
        ),
    ] = 1,
    use_parallel_embedding: Annotated[
        bool,
        typer.Option(
            "--use-parallel-embedding", "--use_parallel_embedding", help="Split the embedding over the ranks, too."
        ),
    ] = False,
    embedding_sharding_dim: Annotated[
        int,
        typer.Option(
            "--embedding-sharding-dim",
            "--embedding_sharding_dim",
            min=0,
            max=1,
            help="With the above: along the vocabulary (0) or the hidden size (1).",
        ),
    ] = 0,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model. HF_TOKEN opens private ones.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT_DIR if it exists.")] = False,
) -> None:
    """Convert a Hugging Face model to a checkpoint: config.json, rank{r}.safetensors and tokenizer/.

    The config and the names and shapes of all tensors are checked first; everything that is missing, unknown or
    unsupported is reported in one message before a weight is read. Weights then pass through in chunks, so memory
    stays small whatever the model.

    Examples:

      inflight convert Qwen/Qwen2.5-0.5B-Instruct --output-dir ckpt

      inflight convert ./Llama-3.2-1B -o ckpt --dtype bfloat16

      inflight convert --model_dir ./Mistral-7B --output_dir ckpt --tp_size 2
    """
    if (model is None) == (model_dir is None):
        raise typer.BadParameter("Give the model once: as MODEL or with --model-dir.")
    if output_dir is None:
        raise typer.BadParameter("Say where the checkpoint goes: --output-dir CKPT.")

    from rich.filesize import decimal

    from inflight.convert.api import convert_model
    from inflight.convert.checkpoint import Checkpoint
    from inflight.convert.options import ConvertOptions

    options = ConvertOptions.model_validate(
        {
            "dtype": dtype.value,
            "tp_size": tp_size,
            "pp_size": pp_size,
            "use_parallel_embedding": use_parallel_embedding,
            "embedding_sharding_dim": embedding_sharding_dim,
            "revision": revision,
            "overwrite": force,
        }
    )
    started = time.monotonic()
    convert_model(model or model_dir or "", output_dir, options)
    checkpoint = Checkpoint.open(output_dir)
    if checkpoint.tokenizer_directory is None:
        typer.echo(f"{model or model_dir} has no tokenizer: the engine will take and give token ids only.", err=True)
    size = sum(entry.nbytes for rank in checkpoint.ranks for entry in rank.values())
    typer.echo(
        f"{output_dir}: {checkpoint.config.architecture}, {checkpoint.config.dtype}, {decimal(size)} in "
        f"{len(checkpoint.ranks)} rank file(s), {time.monotonic() - started:.1f} s\n"
        f"Next: inflight build-engine --checkpoint-dir {output_dir} --output-dir ENGINE"
    )

"""`inflight export`: a checkpoint as an ONNX model, for other tools to run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="Checkpoint directory, as `inflight convert` writes it.")
    ],
    onnx: Annotated[Path, typer.Option("--onnx", "-o", metavar="OUT", help="Directory to write the ONNX model to.")],
    max_seq_len: Annotated[
        int | None,
        typer.Option(
            "--max-seq-len",
            "--max_seq_len",
            "--max-model-len",
            min=1,
            help="Length of the caches: the longest sequence. Default: the model's maximum, at most 8192.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if this command wrote it.")] = False,
) -> None:
    """Write the standard network of a checkpoint with its weights: OUT/model.onnx, and beside it the files it names.

    It is the network that engines are built from, in operators of ONNX alone (opset 24), with float32 arithmetic.
    Weights stay as the checkpoint has them; quantized ones are DequantizeLinear of their integers. Inputs:
    token_ids and positions [batch, step], write_index [batch], and for each layer past_key.N and past_value.N [batch,
    kv_heads, max_seq_len, head_size], all zero at first. Outputs: logits [batch, step, vocab], present_key.N and
    present_value.N, which are the next step's past ones. docs/formats/onnx.md runs it.

    Examples:

      inflight export ckpt --onnx onnx-model

      inflight export ckpt --onnx onnx-model --max-seq-len 2048 --force
    """
    from rich.filesize import decimal

    from inflight.build.export import export_onnx

    exported = export_onnx(checkpoint, onnx, max_seq_len=max_seq_len, overwrite=force)
    quantized = f", quantized ({', '.join(exported.quantized)})" if exported.quantized else ""
    typer.echo(
        f"{exported.network}: {exported.architecture}{quantized}, ONNX opset {exported.opset}, caches of "
        f"{exported.max_seq_len} tokens, {decimal(exported.nbytes)} in {len(exported.files)} files"
    )
    if exported.quantized:
        typer.echo(
            "ONNX Runtime rounds what quantized weights multiply once more, unless session.disable_quant_qdq is 1.",
            err=True,
        )

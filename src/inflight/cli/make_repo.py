"""`inflight make-repo`: an engine becomes a Triton model repository."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def make_repo(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="Engine directory.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the repository goes.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY:VALUE,...", help="Template variables, as for fill_template."),
    ] = None,
    decoupled: Annotated[
        bool,
        typer.Option("--decoupled/--no-decoupled", help="With streaming, or one response per request (unary gRPC)."),
    ] = True,
    exclude_input: Annotated[
        bool, typer.Option("--exclude-input-in-output", help="Answers do not repeat the prompt unless asked to.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DIR if it exists.")] = False,
) -> None:
    """Write the five models (preprocessing, tensorrt_llm, postprocessing, ensemble, tensorrt_llm_bls) with every value
    filled in: batch size, end and pad tokens, tokenizer and engine come from the engine itself.

    Examples:

      inflight make-repo engine models

      inflight make-repo engine models --set kv_cache_free_gpu_mem_fraction:0.5,max_queue_size:100

      inflight make-repo engine models --no-decoupled --exclude-input-in-output
    """
    from inflight.triton_backend.launch.repository import RepositoryOptions, write_repository
    from inflight.triton_backend.launch.template_variables import parse_overrides

    values = {"decoupled_mode": str(decoupled).lower(), "exclude_input_in_output": str(exclude_input).lower()}
    for text in overrides or []:
        values |= parse_overrides(text)
    written = write_repository(engine, directory, RepositoryOptions(values, force))
    for note in written.notes:
        typer.echo(f"note: {note}", err=True)
    repository = shlex.quote(str(written.path))
    typer.echo(f"{written.path}: tritonserver --model-repository={repository} --disable-auto-complete-config")

"""`inflight make-repo`: writes the Triton model repository of an engine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def make_repo(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="Engine directory.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory to write the repository to.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY:VALUE,...", help="Template variables, as in fill_template.py."),
    ] = None,
    decoupled: Annotated[
        bool,
        typer.Option("--decoupled/--no-decoupled", help="Decoupled models stream; others answer once."),
    ] = True,
    exclude_input: Annotated[
        bool, typer.Option("--exclude-input-in-output", help="By default, leave the prompt out of the output.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DIR if it exists.")] = False,
) -> None:
    """Write the Triton model repository of an engine.

    Its models are preprocessing, tensorrt_llm, postprocessing, ensemble and tensorrt_llm_bls, and for unary clients
    beside them tensorrt_llm_unary, ensemble_unary and tensorrt_llm_bls_unary, unless --no-decoupled is given. Batch
    size, end and pad tokens, tokenizer and engine path are filled in from the engine.

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
